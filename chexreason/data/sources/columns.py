"""The reader of all vendors' csv files: text columns, and every fault of a data set in one message."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from chexreason.data.sources.csv_text import Unreadable, dialect, letters, read_lines, records, refuse_swallowed
from chexreason.files import file_sha256
from chexreason.labels.catalog import CHEXPERT14

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
_SYNONYMS = {"mass": "Lung Lesion", "nodule": "Lung Lesion", "normal": "No Finding"}
_COMMON = {"finding", "lung", "other", "support"}  # words of labels that do not tell which
Renamed = Mapping[str, str] | None  # the vendor's spelling of a column: ours
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

    Column names are matched exactly, else by their letters and digits without regard to case (logged, as is another
    delimiter than the comma); ``renamed`` maps the vendor's spelling to ours, and ``optional`` columns may be absent.
    A file that cannot be read at all has no rows and no ``header``, and its fault is in ``faults``.
    """

    def __init__(
        self, file: Path, columns: Sequence[str], faults: Faults, renamed: Renamed = None, optional: Sequence[str] = ()
    ) -> None:
        self.file, self.faults, self.header = file, faults, list[str]()
        self.rows = pd.DataFrame({column: pd.Series(dtype="str") for column in columns})
        self._names = {column: [column] for column in (*columns, *optional)}  # each column's, in the csv
        for theirs, ours in (renamed or {}).items():
            self._names[ours].append(theirs)
        try:
            self.rows = self._parse(read_lines(file), columns)
        except Unreadable as error:
            faults.add(file, str(error))

    def named(self, column: str) -> pd.Series:
        """The values of ``column``; what programs write for none, or a spreadsheet broke, is a fault."""
        text = self.rows[column]
        nothing = pd.Series([_NO_NAME.fullmatch(value) is not None for value in text.tolist()], dtype=bool)
        what = "names nothing (blank, nan, #N/A, a formula, a rounded number; export the column again, as text)"
        self.faults.add_rows(self.file, f"whose {column} {what}", nothing, text)
        return text

    def words(self, column: str, known: Sequence[str]) -> pd.Series:
        """The values of ``column`` in lower case; one that is not ``known`` is a fault."""
        text = self.rows[column].str.lower()
        self.faults.add_rows(self.file, f"with a {column} other than {', '.join(known)}", ~text.isin(known), text)
        return text

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

    def marks(self, labels: Sequence[str], words: Mapping[str, float] | None = None) -> pd.DataFrame:
        """Raw marks of ``labels`` [N, L]: 1, 0, -1 (``words`` stand for these), NaN where blank; others are a fault."""
        text = self.rows[list(labels)].to_numpy(dtype=object)  # [N, L]
        codes, spelled = pd.factorize(text.ravel())  # a handful of spellings: "1.0", "-1.0", ""
        numbers = pd.Series([(words or {}).get(cell.upper(), cell) for cell in spelled], dtype=object)
        parsed = pd.to_numeric(numbers, errors="coerce").to_numpy(dtype=np.float64)
        known = np.isin(parsed, (1.0, 0.0, -1.0)) | (np.asarray(spelled) == "")
        bad = ~known[codes].reshape(text.shape)  # [N, L]
        shown = pd.Series("", index=range(len(text)))
        for i in np.flatnonzero(bad.any(axis=1))[:_SHOWN]:
            shown[i] = f"{labels[bad[i].argmax()]}={text[i, bad[i].argmax()]}"
        fault = f"with a mark other than {', '.join([*(words or ()), '1', '0', '-1'])} or blank"
        self.faults.add_rows(self.file, fault, bad.any(axis=1), shown)
        return pd.DataFrame(parsed[codes].reshape(text.shape), columns=list(labels))

    def no_repeats(self, identifiers: pd.Series) -> None:
        """Notes the rows whose identifier an earlier row has."""
        self.faults.add_rows(self.file, f"that repeat the {identifiers.name}", identifiers.duplicated(), identifiers)

    def _match(self, columns: Sequence[str]) -> dict[str, int]:
        """The place in the header of each of our columns; only ``columns`` have to be there."""
        found, missing = {}, []
        for column, names in self._names.items():
            alike = [name for name in self.header if letters(name) in map(letters, names)]
            alike = [name for name in self.header if name in names] or alike
            if len(alike) > 1:
                raise Unreadable(f"has several columns for '{column}': {', '.join(alike)}; keep one")
            if alike:
                found[column] = self.header.index(alike[0])
            elif column in columns:
                missing.append(f"'{column}'{closest(column, self.header)}")
            if alike and alike[0] not in names:
                log.warning("%s: column '%s' taken for '%s'", self.file, alike[0], column)
        if missing:
            have = ", ".join(self.header[:20]) + (", ..." if len(self.header) > 20 else "")
            raise Unreadable(f"lacks the columns {', '.join(missing)}; its columns: {have}")
        return found

    def _parse(self, lines: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
        skip, mark = dialect(lines, columns)
        if (skip, mark) != (0, ","):
            log.warning("%s: taken as separated by %r, with its header in line %d", self.file, mark, skip + 1)
        reading = records(lines, skip, mark)
        *span, names = next(reading)
        self.header, n = [name.strip() for name in names], len(names)
        at = self._match(columns)
        pick = itemgetter(*at.values(), 0)  # a tuple, of one column too: of lists there would be too many to collect
        begins, rows, broken = [], [], [span]
        shifted = []  # an unquoted comma moves every later value into the wrong column
        for first, last, cells in reading:
            if len(cells) == n:
                begins.append(first)
                rows.append(pick(cells))
                if last > first:
                    broken.append([first, last])
            else:
                shifted.append(f"line {first} {len(cells)} values for {n} columns")
        if shifted:
            raise Unreadable(f"has {len(shifted)} rows of another length than the header: {first_of(shifted)}")
        if not rows:
            raise Unreadable("has a header and no rows")
        read = dict(zip(at, zip(*rows, strict=True), strict=False))
        refuse_swallowed(lines, mark, n, broken, {at[name]: read[name] for name in at})
        self.faults.begins[self.file] = begins
        text = {name: pa.array(map(str.strip, cells), pa.large_string()) for name, cells in read.items()}
        return pa.table(text).to_pandas().astype("str")


def first_of(names: Iterable[str]) -> str:
    """The first three of ``names``, with ", ..." where there are more."""
    listed = list(islice(names, _SHOWN + 1))
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")


def closest(name: str, known: Sequence[str]) -> str:
    """ " (closest: 'X')" for the known name most like ``name``, or nothing."""
    by_case = {other.casefold(): other for other in known}
    match = get_close_matches(name.casefold(), by_case, n=1)
    return f" (closest: '{by_case[match[0]]}')" if match else ""


def years(age: pd.Series) -> pd.Series:
    """Whole years of ages such as "57", "058Y", "018M", "003D"; NaN where there is none."""
    parts = age.astype(object).str.extract(_AGE)  # [N, 2]: number, unit
    return or_unknown(np.floor(pd.to_numeric(parts[0]) / parts[1].str.upper().map(_A_YEAR).fillna(1)), age)


def or_unknown(read: pd.Series, written: pd.Series) -> pd.Series:
    """``read``, what a person's data say; what was ``written`` and is not read is logged: it is unknown."""
    if lost := first_of(written[read.isna() & (written != "")].unique()):
        log.warning("values of %s are not read, so unknown: %s", written.name, lost)
    return read


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
    return {file.name: file_sha256(file) for file in files}


def nearest_label(column: str, found: Sequence[str]) -> list[str]:
    """The label that ``column`` most likely means, by a word or the whole name: none of ``found``, or no label."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)]
    likely = {}
    for label in (label for label in CHEXPERT14.labels if label not in found):
        telling = set(label.lower().split()) - _COMMON
        shared = any(_SYNONYMS.get(word) == label or get_close_matches(word, telling, cutoff=0.72) for word in words)
        if shared or get_close_matches(letters(column), [letters(label)], cutoff=0.85):
            likely[letters(label)] = label
    return [likely[name] for name in get_close_matches(letters(column), likely, n=1, cutoff=0.0)]
