"""The records of a csv file before a column has a meaning: all that are written, or why the file cannot be read."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import shlex
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

MAX_UNPACKED = 2**30  # bytes of a csv.gz, unpacked; MIMIC's largest has 377,110 rows
csv.field_size_limit(MAX_UNPACKED)  # a report may be longer than the module's 131,072 characters
_BINARY = {  # what a file that is no text is, by its first bytes, and the way out
    b"PK": "an Excel workbook (.xlsx) or a zip archive; save its sheet as 'CSV UTF-8', or unpack it",
    b"\xd0\xcf": "an Excel workbook (.xls); save its sheet as 'CSV UTF-8'",
}
_DAMAGED = "no text: it is damaged, or packed by another program than gzip; unpack it, or download it again"


class Unreadable(Exception):
    """Why a file cannot be read at all."""


def read_lines(file: Path) -> list[str]:
    """The lines of ``file`` (plain or gzip, UTF-8 or UTF-16, any line end), each with "\\n", without invisible marks.

    Raises Unreadable with what the file is, and the way out.
    """
    data = file.read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):  # not the name tells: users rename files
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_UNPACKED + 1)
            if len(data) > MAX_UNPACKED:
                raise Unreadable(f"unpacks to more than {MAX_UNPACKED:,} bytes: damaged, or unpack it (gunzip) first")
        wide = "utf-16-be" if data[:1] == b"\0" else "utf-16-le" if data[1:2] == b"\0" else "utf-8-sig"
        text = data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else wide)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(f"is damaged gzip ({error}); download it again") from error
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise Unreadable("is " + _BINARY.get(data[:2], _DAMAGED)) from error
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(
            f"is not UTF-8 text ({data[error.start]:#x} in line {line}); if Western Europe's Windows wrote it, "
            f"use the output of: gzip -cdf {shlex.quote(str(file))} | iconv -f cp1252 -t utf-8"
        ) from error
    for invisible in "\ufeff\u200b\u2060":  # a patient's number with one of them would be another patient
        text = text.replace(invisible, "")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Unreadable("is " + _BINARY.get(data[:2], f"{_DAMAGED} (a zero byte in line {line})"))
    if text.lstrip().startswith("<"):
        raise Unreadable("is a web page or XML, perhaps a page that asks for a login; download the csv again")
    return [line + "\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def records(lines: Sequence[str], skip: int, mark: str) -> Iterator[tuple[int, int, list[str]]]:
    """First line, last line and cells of each record that is not blank, after ``skip`` lines, the header first.

    Raises Unreadable where there is none, and at a quotation mark that opens or closes no cell.
    """
    reader = csv.reader(lines[skip:], delimiter=mark, strict=True, skipinitialspace=True)
    first = skip + 1
    try:
        for cells in reader:
            if cells:
                yield first, skip + reader.line_num, cells
            first = skip + reader.line_num + 1
    except csv.Error as error:
        raise Unreadable(
            f"has a stray quotation mark in the row that begins in line {first} ({error}); take it out, or put the "
            'cell into quotation marks and write each mark inside it twice ("")'
        ) from error
    if not any(line.strip() for line in lines):
        raise Unreadable("has no header line: the file is empty")


def refuse_swallowed(
    lines: Sequence[str], mark: str, n: int, spans: Sequence[Sequence[int]], columns: Mapping[int, Sequence[str]]
) -> None:
    """Raises Unreadable where one of ``spans``, the lines of each record, hides rows behind a quotation mark.

    ``columns`` are those that are read, by their place among ``n``. A quoted cell of another column may hold line
    breaks (a report): none of its lines has as many cells as a row, with the same kinds of characters at each place
    but one at most, where more than three are read.
    """
    inside = [(first, number) for first, last in spans for number in range(first + 1, last + 1)]
    kinds = {place: {_kinds(cell) for cell in column if cell.strip()} for place, column in columns.items() if inside}
    for first, number in inside:
        text, *rest = next(csv.reader(['"' + lines[number - 1].removesuffix("\n")], delimiter=mark))
        cells = [cell.strip(' "') for cell in (*text.split(mark), *rest)]
        read = {place: cells[place] for place in columns} if len(cells) == n else {}
        other = sum(bool(kinds[i]) and _kinds(cell) not in kinds[i] for i, cell in read.items() if cell)
        told = sum(map(bool, read.values()))
        if next(iter(read.values()), "") and other <= (told > 3):  # the first column that is read names the row
            raise Unreadable(
                f"has a row inside quotation marks: line {number}, in a cell that is opened in line {first}; take the "
                'stray quotation mark out, or write it twice ("")'
            )
    if inside and any("\n" in cell for column in columns.values() for cell in column):
        raise Unreadable(f"has a line break in a column that is read (perhaps in line {inside[0][0]}); take it out")


def dialect(lines: Sequence[str], columns: Sequence[str]) -> tuple[int, str]:
    """How many lines precede the header, and its delimiter: the first way that finds the most of the ``columns``."""
    wanted = {letters(column) for column in columns}
    ways = {(i, mark): next(csv.reader(lines[i:20], delimiter=mark), []) for i in range(20) for mark in ",;\t|"}
    return max(ways, key=lambda way: len(wanted & set(map(letters, ways[way]))))


def letters(name: str) -> str:
    """Letters and digits of ``name`` without regard to case: the same for "Pleural_Effusion" and "pleural effusion"."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _kinds(cell: str) -> frozenset[str]:
    """The characters of ``cell`` without its letters, those of numbers as one."""
    return frozenset(re.sub(r"[\d.-]+", "0", re.sub(r'[^\W\d]|"', "", cell.strip())))
