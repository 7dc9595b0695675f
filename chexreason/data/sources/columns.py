"""The reader of all vendors' csv files: text columns, and every fault of a data set in one message."""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from chexreason.data.fingerprint import content_sha256

log = logging.getLogger(__name__)
MAX_UNPACKED = 2**30  # bytes of a csv.gz, unpacked; MIMIC's largest has 377,110 rows
_SHOWN = 3  # examples of each kind of fault
_OTHER_DELIMITERS = (";", "\t", "|")
Flags = pd.Series | npt.NDArray[np.bool_]  # one a row of a csv, in its order


class Faults:
    """What is wrong with the files of one data set: one line a kind, with its count and first examples."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.lines: list[str] = []

    def add(self, file: Path, fault: str) -> None:
        """Notes a fault of a whole file."""
        self.lines.append(f"{file.name}: {fault}")

    def add_rows(self, file: Path, fault: str, bad: Flags, shown: pd.Series) -> None:
        """Notes the rows [N] that are ``bad``, if any, and the first of their ``shown`` values with line numbers."""
        where = np.flatnonzero(bad)
        if len(where):
            examples = first_of(f"line {i + 2} '{shown.iloc[i]}'" for i in where)  # the header is line 1
            self.add(file, f"{len(where)} rows {fault}: {examples}")

    def stop(self) -> None:
        """Raises ValueError with all that was noted; does nothing where that is nothing."""
        if self.lines:
            listed = "\n".join(f"  {line}" for line in self.lines)
            raise ValueError(f"{self.place}: {len(self.lines)} kinds of fault; nothing was written\n{listed}")


class VendorCsv:
    """The ``columns`` of one csv (plain or gzip, with or without BOM) as stripped text in ``rows``.

    Column names are matched exactly, else without regard to case (logged); ``renamed`` maps the vendor's spelling to
    ours. A file that cannot be read at all has no rows and its fault is in ``faults``.
    """

    def __init__(
        self, file: Path, columns: Sequence[str], faults: Faults, renamed: Mapping[str, str] | None = None
    ) -> None:
        self.file, self.faults = file, faults
        self.rows = pd.DataFrame({column: pd.Series(dtype="str") for column in columns})
        try:
            data = _unpacked(file)
            self.rows = self._parse(data, self._match(columns, _header(data), renamed or {}))
        except _Unreadable as error:
            faults.add(file, str(error))

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
        if dotted.any():
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

    def _match(self, columns: Sequence[str], header: Sequence[str], renamed: Mapping[str, str]) -> dict[str, str]:
        """Their spelling of each of our ``columns``, as ours by theirs."""
        found: dict[str, str] = {}
        missing = []
        for column in columns:
            names = [column, *(theirs for theirs, ours in renamed.items() if ours == column)]
            folded = {name.casefold() for name in names}
            candidates = [name for name in header if name.strip().casefold() in folded]
            if len(candidates) > 1:
                raise _Unreadable(f"has several columns for '{column}': {', '.join(candidates)}; keep one")
            if not candidates:
                missing.append(f"'{column}'{closest(column, header)}")
                continue
            found[candidates[0]] = column
            if candidates[0] not in names:
                log.warning("%s: column '%s' taken for '%s'", self.file, candidates[0], column)
        if missing:
            _refuse_header(missing, header, columns)
        return found

    def _parse(self, data: bytes, ours: Mapping[str, str]) -> pd.DataFrame:
        shifted: list[tuple[int, str]] = []  # an unquoted comma moves every later value into the wrong column

        def skip(row: pa.csv.InvalidRow) -> str:
            shifted.append((row.number, f"{row.actual_columns} values for {row.expected_columns} columns"))
            return "skip"

        try:
            table = pa.csv.read_csv(
                io.BytesIO(data),
                read_options=pa.csv.ReadOptions(use_threads=False),  # rows are numbered only then
                parse_options=pa.csv.ParseOptions(invalid_row_handler=skip),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(ours), column_types=dict.fromkeys(ours, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowException as error:
            if not data.partition(b"\n")[2].strip():
                raise _Unreadable("has a header and no rows") from error
            raise _Unreadable(f"is not a table of UTF-8 text ({error})") from error
        if shifted:
            examples = ", ".join(f"line {number} {why}" for number, why in shifted[:_SHOWN])
            raise _Unreadable(f"has {len(shifted)} rows of another length than the header: {examples}")
        trimmed = [pa.compute.utf8_trim_whitespace(column) for column in table.columns]
        return pa.table(trimmed, names=[ours[theirs] for theirs in table.column_names]).to_pandas()


class _Unreadable(Exception):
    """Why a file cannot be read at all."""


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
        return _header(_unpacked(file))
    except _Unreadable:
        return []


def any_mark(marks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One mark [N] of several [N, K] of the same label: present where any is, else uncertain, else absent, else NaN."""
    result = np.full(len(marks), np.nan)
    for value in (0.0, -1.0, 1.0):
        result[(marks == value).any(axis=1)] = value
    return result


def sha256_by_name(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of the bytes of each file, by its name."""
    return {file.name: content_sha256(file.read_bytes()) for file in files}


def _unpacked(file: Path) -> bytes:
    """The bytes of the csv without BOM; its first bytes tell gzip, for users rename files."""
    data = file.read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_UNPACKED + 1)
            if len(data) > MAX_UNPACKED:
                raise _Unreadable(f"unpacks to more than {MAX_UNPACKED:,} bytes: damaged, or unpack it (gunzip) first")
        return data.removeprefix(codecs.BOM_UTF8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _Unreadable(f"is damaged gzip ({error}); download it again") from error


def _header(data: bytes) -> list[str]:
    line = data.split(b"\n", 1)[0].decode("utf-8", errors="replace").rstrip("\r")
    if not line.strip():
        raise _Unreadable("has no header line")
    return next(csv.reader([line]))


def _refuse_header(missing: Sequence[str], header: Sequence[str], columns: Sequence[str]) -> NoReturn:
    line = ",".join(header)
    wanted = {column.casefold() for column in columns}
    for delimiter in _OTHER_DELIMITERS:
        if wanted & {name.strip().strip('"').casefold() for name in line.split(delimiter)}:
            raise _Unreadable(f"is separated by {delimiter!r}, not by commas; save it as the vendor ships it")
    have = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
    raise _Unreadable(f"lacks the columns {', '.join(missing)}; its columns: {have}")
