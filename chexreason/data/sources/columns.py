"""The reader of all vendors' csv files: text columns, and every fault of a data set in one message."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from chexreason.data.fingerprint import content_sha256
from chexreason.data.sources.csv_text import Unreadable, plain, read_lines, records, refuse_dialect, refuse_swallowed

log = logging.getLogger(__name__)
_SHOWN = 3  # examples of each kind of fault
# What spreadsheets, databases and pandas write where there is no name, and what they make of a long number
_NO_NAME = re.compile(
    r"[\W_]*|nan|none|nil|null|nat|<na>|n\.?/?a\.?|unknown|=.*|#(?:N/?A|REF|VALUE|NAME|NUM|NULL|DIV/0)[!?]?"
    r"|\d+(?:[.,]\d*)?E\+\d+",
    re.IGNORECASE,
)
_AGE = r"(?i)^(\d+(?:\.\d*)?)\s*(?:([YMWD])[A-Z]*\.?)?$"  # "57", "058Y", "18 months"
_A_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}
Flags = pd.Series | npt.NDArray[np.bool_]  # one a row of a csv, in its order


class Faults:
    """What is wrong with the files of one data set: one line a kind, with its count and first examples."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.lines: list[str] = []
        self.begins: dict[Path, Sequence[int]] = {}  # the line that each row of a file begins in

    def add(self, file: Path, fault: str) -> None:
        """Notes a fault of a whole file."""
        self.lines.append(f"{file.name}: {fault}")

    def add_rows(self, file: Path, fault: str, bad: Flags, shown: pd.Series) -> None:
        """Notes the rows [N] that are ``bad``, if any, and the first of their ``shown`` values with line numbers."""
        where = np.flatnonzero(bad)
        if len(where):
            begins = self.begins.get(file)
            examples = first_of(f"line {begins[i] if begins else i + 2} '{shown.iloc[i]}'" for i in where)
            self.add(file, f"{len(where)} rows {fault}: {examples}")

    def stop(self) -> None:
        """Raises ValueError with all that was noted; does nothing where that is nothing."""
        if self.lines:
            listed = "\n".join(f"  {line}" for line in self.lines)
            raise ValueError(f"{self.place}: {len(self.lines)} kinds of fault; nothing was written\n{listed}")


class VendorCsv:
    """The ``columns`` of one csv (plain or gzip) as stripped text in ``rows``: every record of the file is a row.

    Column names are matched exactly, else without regard to case, else by letters and digits alone (logged);
    ``renamed`` maps the vendor's spelling to ours. A file that cannot be read at all has no rows and its fault is in
    ``faults``.
    """

    def __init__(
        self, file: Path, columns: Sequence[str], faults: Faults, renamed: Mapping[str, str] | None = None
    ) -> None:
        self.file, self.faults = file, faults
        self.rows = pd.DataFrame({column: pd.Series(dtype="str") for column in columns})
        try:
            lines = read_lines(file)
            self.rows = self._parse(lines, self._match(columns, lines, renamed or {}))
        except Unreadable as error:
            faults.add(file, str(error))

    def named(self, column: str) -> pd.Series:
        """The values of ``column``; one that names nothing (``no_name``) is a fault."""
        what = "names nothing (blank, nan, #N/A, a formula, a rounded number; export the column again, as text)"
        self.faults.add_rows(self.file, f"whose {column} {what}", no_name(self.rows[column]), self.rows[column])
        return self.rows[column]

    def words(self, column: str, known: Sequence[str]) -> pd.Series:
        """The values of ``column`` in lower case; one that is not ``known`` is a fault."""
        text = self.rows[column].str.lower()
        self.faults.add_rows(self.file, f"with a {column} other than {', '.join(known)}", ~text.isin(known), text)
        return text

    def years(self, column: str) -> pd.Series:
        """Whole years of ages such as "57", "058Y", "018M", "003D"; NaN where there is none, logged where not blank."""
        text = self.rows[column]
        parts = text.astype(object).str.extract(_AGE)  # [N, 2]: number, unit
        years = np.floor(pd.to_numeric(parts[0]) / parts[1].str.upper().map(_A_YEAR).fillna(1))
        if (strange := years.isna() & ~no_name(text)).any():
            counts = (self.file, strange.sum(), column, text[strange].iloc[0])
            log.warning("%s: %d values of %s are no age, such as '%s'; taken as unknown", *counts)
        return years

    def whole_numbers(self, column: str) -> pd.Series:
        """The identifiers in ``column`` as ``identifiers`` gives them; anything but a whole number is a fault."""
        text = self.rows[column]
        whole = text.str.fullmatch(r"\d+(?:\.0*)?")
        self.faults.add_rows(self.file, f"with a {column} that is no whole number", ~whole, text)
        return self.identifiers(column)

    def identifiers(self, column: str) -> pd.Series:
        """The values of ``column``; a whole number that passed through floating point ("10000032.0") is one again."""
        text = self.rows[column]
        dotted = text.str.fullmatch(r"\d+\.0+")
        if not dotted.any():
            return text
        log.warning("%s: %d values of %s end in '.0'; taken as whole numbers", self.file, dotted.sum(), column)
        return text.mask(dotted, text.str.split(".").str[0])

    def marks(self, labels: Sequence[str]) -> pd.DataFrame:
        """Raw marks of ``labels`` [N, L]: 1, 0, -1, NaN where blank; another value is a fault."""
        text = self.rows[list(labels)].to_numpy(dtype=object)  # [N, L]
        codes, spelled = pd.factorize(text.ravel())  # a handful of spellings: "1.0", "-1.0", ""
        parsed = pd.to_numeric(pd.Series(spelled, dtype="str"), errors="coerce").to_numpy(dtype=np.float64)
        known = np.isin(parsed, (1.0, 0.0, -1.0)) | (np.asarray(spelled) == "")
        bad = ~known[codes].reshape(text.shape)  # [N, L]
        first = bad.argmax(axis=1)
        shown = pd.Series("", index=range(len(text)))
        for i in np.flatnonzero(bad.any(axis=1))[:_SHOWN]:
            shown[i] = f"{labels[first[i]]}={text[i, first[i]]}"
        self.faults.add_rows(self.file, "with a mark other than 1, 0, -1 or blank", bad.any(axis=1), shown)
        return pd.DataFrame(parsed[codes].reshape(text.shape), columns=list(labels))

    def no_repeats(self, identifiers: pd.Series) -> None:
        """Notes the rows whose identifier an earlier row has."""
        article = "an" if str(identifiers.name)[0] in "AEIOU" else "a"
        fault = f"that repeat {article} {identifiers.name}"
        self.faults.add_rows(self.file, fault, identifiers.duplicated(), identifiers)

    def _match(self, columns: Sequence[str], lines: Sequence[str], renamed: Mapping[str, str]) -> dict[str, int]:
        """Where in the header each of our ``columns`` is."""
        theirs = _header(lines)
        found: dict[str, int] = {}
        missing = []
        for column in columns:
            names = [column, *(name for name, ours in renamed.items() if ours == column)]
            by_case = {name.casefold() for name in names}
            candidates = [name for name in theirs if name.casefold() in by_case]
            if not candidates:
                candidates = [name for name in theirs if plain(name) in map(plain, names)]
            if len(candidates) > 1:
                raise Unreadable(f"has several columns for '{column}': {', '.join(candidates)}; keep one")
            if not candidates:
                missing.append(f"'{column}'{closest(column, theirs)}")
                continue
            found[column] = theirs.index(candidates[0])
            if candidates[0] not in names:
                log.warning("%s: column '%s' taken for '%s'", self.file, candidates[0], column)
        if missing:
            refuse_dialect(self.file, lines, columns)
            have = ", ".join(theirs[:20]) + (", ..." if len(theirs) > 20 else "")
            raise Unreadable(f"lacks the columns {', '.join(missing)}; its columns: {have}")
        return found

    def _parse(self, lines: Sequence[str], at: Mapping[str, int]) -> pd.DataFrame:
        reading, places = records(lines), list(at.values())
        *span, names = next(reading)
        n, spans = len(names), [(span[0], span[1])]
        rows: list[list[str]] = []
        shifted: list[str] = []  # an unquoted comma moves every later value into the wrong column
        for first, last, cells in reading:
            if len(cells) == n:
                spans.append((first, last))
                rows.append([cells[i] for i in places])
            else:
                shifted.append(f"line {first} {len(cells)} values for {n} columns")
        if shifted:
            raise Unreadable(f"has {len(shifted)} rows of another length than the header: {first_of(shifted)}")
        if not rows:
            raise Unreadable("has a header and no rows")
        columns = list(zip(*rows, strict=True))
        refuse_swallowed(lines, spans, columns, places, n)
        self.faults.begins[self.file] = [first for first, _ in spans[1:]]
        return pd.DataFrame({name: map(str.strip, cells) for name, cells in zip(at, columns, strict=True)}, dtype="str")


def no_name(text: pd.Series) -> pd.Series:
    """Which values [N] name no patient, study or file: what programs write for none, and what a spreadsheet broke."""
    return pd.Series([_NO_NAME.fullmatch(value) is not None for value in text.tolist()], index=text.index, dtype=bool)


def first_of(names: Iterable[str]) -> str:
    """The first three of ``names``, with ", ..." where there are more."""
    listed = list(islice(names, _SHOWN + 1))
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")


def closest(name: str, known: Sequence[str]) -> str:
    """ " (closest: 'X')" for the known name most like ``name``, or nothing."""
    by_case = {other.casefold(): other for other in known}
    match = difflib.get_close_matches(name.casefold(), by_case, n=1)
    return f" (closest: '{by_case[match[0]]}')" if match else ""


def header_of(file: Path) -> list[str]:
    """The column names of ``file``; none where it cannot be read."""
    try:
        return _header(read_lines(file))
    except Unreadable:
        return []


def listed_in(file: Path, faults: Faults) -> set[str]:
    """The words of a list; none where it cannot be read, which is a fault."""
    try:
        return set(" ".join(read_lines(file)).split())
    except Unreadable as error:
        faults.add(file, str(error))
        return set()


def any_mark(marks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One mark [N] of several [N, K] of the same label: present where any is, else uncertain, else absent, else NaN."""
    result = np.full(len(marks), np.nan)
    for value in (0.0, -1.0, 1.0):
        result[(marks == value).any(axis=1)] = value
    return result


def sha256_by_name(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of the bytes of each file, by its name."""
    return {file.name: content_sha256(file.read_bytes()) for file in files}


def _header(lines: Sequence[str]) -> list[str]:
    return [name.strip() for name in next(records(lines))[2]]
