"""The one csv reader of all sources: what it accepts, and every fault with its place."""

import csv
import gzip
import io
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from chexreason.data.sources.columns import Faults, VendorCsv, any_mark, years

COLUMNS = ("id", "Edema", "Pleural Other")
TEXT = "id,Edema,note,Pleural Other\n7,1.0,a,\np7.0, -1,b,0\n12.0,,c,1\n"
LENGTH = "another length than the header"
DAMAGED = "is no text: it is damaged, or packed by another program than gzip"
STRAY = "has a stray quotation mark in the row that"
INSIDE = "has a row inside quotation marks"


def opened(folder: Path, data: str | bytes, renamed: dict[str, str] | None = None) -> tuple[VendorCsv, Faults]:
    """``data`` as a csv of the set 's', and the faults that reading it left."""
    (folder / "t.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
    faults = Faults("set 's'")
    return VendorCsv(folder / "t.csv", COLUMNS, faults, renamed), faults


def packed(name: str) -> bytes:
    """A zip archive of one file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "x")
    return archive.getvalue()


def swap(text: str) -> str:
    """``text`` with its two last columns exchanged: the notes end the line."""
    return re.sub(r"([^,\n]*),([^,\n]*)\n", r"\2,\1\n", text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.replace("Pleural Other", " pleural OTHER "),
        lambda text: text.replace(",b,", ',"b, c",'),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace("Pleural Other", "PleuralOther").replace("Edema", "_edema"),
        lambda text: text.replace(",a,", ',"a, ""b""\r\n\r\nc",'),
        lambda text: text.replace(",a,", ',5" film,'),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("7,1.0", "\u200b7\xa0,1.0\ufeff"),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-be"),
        lambda text: gzip.compress(text.encode("utf-16-le")),
        lambda text: text.replace(",", ";").replace("\n7", "\n\n7"),
        lambda text: text.replace("id,Edema", '"i\nd",Edema'),
        lambda text: text.replace(",a,", ', "a, b",').replace("\n7,", '\n"7", '),
        lambda text: text.replace(",a,", f",{'a' * 200_000},"),
        lambda text: ("sep=\t\n" + text.replace(",", "\t")).encode("utf-16"),
        lambda text: "A title, and more\n\n" + text.replace(",", "|").replace("|a|", '|"a|\nb"|'),
    ],
    ids=lambda change: "",
)
def test_harmless_spellings_change_nothing(tmp_path, change):
    plain, _ = opened(tmp_path, TEXT)
    csv, faults = opened(tmp_path, change(TEXT))
    pd.testing.assert_frame_equal(csv.rows, plain.rows)
    assert csv.rows["Edema"].tolist() == ["1.0", "-1", ""]
    assert not faults.lines


def test_what_is_taken_for_something_else_is_said(tmp_path, caplog):
    text = TEXT.replace("Edema", "edema").replace("Pleural Other", "Pleura")
    csv, _ = opened(tmp_path, text, {"Pleura": "Pleural Other"})
    assert csv.identifiers("id").tolist() == ["7", "p7.0", "12"]
    np.testing.assert_array_equal(csv.marks(COLUMNS[1:]), [[1, np.nan], [-1, 0], [np.nan, 1]])
    assert "column 'edema' taken for 'Edema'" in caplog.text
    assert "'Pleura'" not in caplog.text
    assert "1 values of id end in '.0'; taken as whole numbers" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("Edema", "Oedema"), "lacks the columns 'Edema' (closest: 'Oedema'); its columns:"),
        (
            lambda text: text.replace("note", "EDEMA").replace("Edema", "e_dema"),
            "has several columns for 'Edema': e_dema, ED",
        ),
        (lambda text: text.replace("\n7", ",\n7"), f"has 3 rows of {LENGTH}: line 2 4 values for 5 columns, line 3"),
        (lambda text: text.replace(",a,", ",a,b,"), f"has 1 rows of {LENGTH}: line 2 5 values for 4 columns"),
        (lambda text: text.replace(",b,0", ""), f"has 1 rows of {LENGTH}: line 3 2 values for 4 columns"),
        (lambda text: text.split("\n")[0], "has a header and no rows"),
        (lambda text: "", "has no header line"),
        (lambda text: text.replace("-1", "ä").encode("latin-1"), "is not UTF-8 text (0xe4 in line 3)"),
        (lambda text: gzip.compress(text.encode())[:-12], "is damaged gzip"),
        (
            lambda text: swap(text).replace(",", ";").replace(";a\n", ';"a\n').replace(";c\n", ';c"\n'),
            f"{INSIDE}: line 3",
        ),
        (lambda text: packed("xl/workbook.xml"), "is an Excel workbook (.xlsx) or a zip archive; save its sheet as"),
        (
            lambda text: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
            "is an Excel workbook (.xls); save its sheet as",
        ),
        (lambda text: "<!DOCTYPE html>\n<html>", "is a web page or XML, perhaps a page that asks for a login"),
        (lambda text: b"BZh91AY&SY\x00\xff\xff", f"{DAMAGED}; unpack it, or download it again"),
        (lambda text: text.replace("-1", "\0"), f"{DAMAGED}; unpack it, or download it again (a zero byte in line 3)"),
        (lambda text: text.encode("utf-16")[:-1], DAMAGED),
        (lambda text: text.replace(",a,", ',"a,'), f"{STRAY} begins in line 2"),
        (lambda text: text.replace(",b,", ',"b" c,'), f"{STRAY} begins in line 3"),
        (lambda text: text.replace(",a,", ',"a,').replace(",b,", ',"b,'), f"{STRAY} begins in line 2"),
        (lambda text: text.replace("\n7", '\n"7').replace("\np7.0", '\np7.0"'), f"{INSIDE}: line 3, in a cell that is"),
        (
            lambda text: swap(text).replace(",a\n", ',"a\n').replace(",c\n", ',c"\n'),
            f"{INSIDE}: line 3, in a cell that is",
        ),
        (lambda text: gzip.compress(text.encode() + b" " * 2**16), "unpacks to more than 65,536 bytes: damaged, or"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, change, message, monkeypatch):
    monkeypatch.setattr("chexreason.data.sources.csv_text.MAX_UNPACKED", 2**16)
    csv, faults = opened(tmp_path, change(TEXT))
    assert faults.lines[0].startswith(f"t.csv: {message}")
    assert csv.rows.empty
    assert tuple(csv.rows) == COLUMNS
    with pytest.raises(ValueError, match="set 's': 1 kinds of fault; nothing was written"):
        faults.stop()


def test_rows_are_faulted_by_kind_with_their_first_lines(tmp_path):
    csv, faults = opened(tmp_path, TEXT.replace("-1", "maybe") + "1.5,,,\n" * 4)
    csv.whole_numbers("id")
    csv.marks(COLUMNS[1:])
    csv.no_repeats(csv.rows["id"])
    assert faults.lines == [
        "t.csv: 5 rows with a id that is no whole number: line 3 'p7.0', line 5 '1.5', line 6 '1.5', ...",
        "t.csv: 1 rows with a mark other than 1, 0, -1 or blank: line 3 'Edema=maybe'",
        "t.csv: 3 rows that repeat the id: line 6 '1.5', line 7 '1.5', line 8 '1.5'",
    ]


def test_the_command_that_a_refusal_names_writes_a_csv_that_is_read(tmp_path):
    expected, _ = opened(tmp_path, TEXT.replace(",b,", ",ä,"))
    _, faults = opened(tmp_path, gzip.compress(TEXT.replace(",b,", ",ä,").encode("cp1252")))
    command = faults.lines[0].partition("use the output of: ")[2]
    found, faults = opened(tmp_path, subprocess.check_output(["bash", "-c", command], timeout=60))
    assert not faults.lines
    pd.testing.assert_frame_equal(found.rows, expected.rows)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("n", [20, 40_000], ids=["small", "2.7 MiB, larger than a reader's block"])
def test_line_breaks_and_stray_marks_at_any_size(tmp_path, n, pack):
    report = '"No effusion, edema, or mass.\nHeart, 7, 1, size ""normal"""'
    text = "id,Edema,Pleural Other,report\n" + "".join(f"{i},1,0,{report}\n" for i in range(n))
    csv, faults = opened(tmp_path, pack(text.encode()))
    csv.faults.add_rows(csv.file, "to see", csv.rows["id"] == "9", csv.rows["id"])
    assert faults.lines == ["t.csv: 1 rows to see: line 20 '9'"]  # the line of the file, not the number of the row
    assert csv.rows["id"].tolist() == [str(i) for i in range(n)]
    middle = f"\n{n // 2},1,0,"
    _, faults = opened(tmp_path, pack(text.replace(middle + '"', middle + '""', 1).encode()))
    assert faults.lines[0].startswith(f"t.csv: {STRAY} begins in line {n // 2 * 2 + 2} (")


CELLS = st.text(st.sampled_from("a1,\"\n\r '.;-é"), max_size=6)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_whatever_a_program_quotes_is_read_back(tmp_path_factory, notes):
    out = io.StringIO()
    rows = [(f"a/{i}.png", "1", before, "0", after) for i, (before, after) in enumerate(notes)]
    csv.writer(out).writerows([("id", "Edema", "before", "Pleural Other", "after"), *rows])
    found, faults = opened(tmp_path_factory.mktemp("t"), out.getvalue())
    assert not faults.lines
    assert found.rows["id"].tolist() == [row[0] for row in rows]


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=3), st.booleans())
@settings(max_examples=100, deadline=None)
def test_stray_marks_never_lose_a_row_in_silence(tmp_path_factory, places, quoted):
    note = '"a, b"' if quoted else "a b"
    text = "id,Edema,before,Pleural Other,after\n" + "".join(f"img_{i}.png,1,{note},0,{note}\n" for i in range(12))
    for place in places:
        text = text[: place % len(text)] + '"' + text[place % len(text) :]
    found, faults = opened(tmp_path_factory.mktemp("t"), text)
    assert faults.lines or len(found.rows) == 12


def test_what_names_nobody_is_no_identifier(tmp_path):
    good = ["7", "0007", "p7.0", "#12", "NAN01", "Иванов", "李", "1e5", "nanna", "P-1", "UNKNOWN3"]
    bad = ["1E+07", "1.00001e+07", '="0007"', "nan", "NaN", "#N/A", "#REF!", "", "NULL", "None", "-", " ", "?", "<NA>"]
    text = "id,Edema,Pleural Other\n" + "".join(f"{name},1,0\n" for name in good + bad)
    csv, faults = opened(tmp_path, text)
    csv.named("id")
    assert (
        re.fullmatch(r"t\.csv: (\d+) rows whose id names nothing .*: line 13 '1E\+07', .*", faults.lines[0])[1] == "14"
    )


def test_ages_of_all_spellings(tmp_path):
    ages = {"57": 57, "058Y": 58, "060y": 60, "018M": 1, "003D": 0, "104W": 2, "60 years": 60, "57.0": 57, "57.9": 57}
    text = "id,Edema,Pleural Other\n" + "".join(f"{i},{age},\n" for i, age in enumerate([*ages, "", "-1", "old", "9X"]))
    csv, _ = opened(tmp_path, text)
    np.testing.assert_array_equal(years(csv.rows["Edema"]), [*ages.values(), *[np.nan] * 4])


@pytest.mark.parametrize(
    ("cell", "mark"),
    [("1.0", 1), ("-1", -1), ("0.00", 0), ("+1", 1), ("", np.nan)]
    + [
        (cell, None)
        for cell in ("TRUE", "true", "yes", "positive", '"0,5"', '"1,0"', "0.5", "2", "nan", "NULL", "x", "-")
    ],
)
def test_a_mark_is_read_rightly_or_refused_with_row_and_column(tmp_path, cell, mark):
    csv, faults = opened(tmp_path, TEXT.replace("1.0", cell, 1))
    found = csv.marks(COLUMNS[1:]).iloc[0, 0]
    fault = f"t.csv: 1 rows with a mark other than 1, 0, -1 or blank: line 2 'Edema={cell.strip(chr(34))}'"
    assert faults.lines == ([fault] if mark is None else [])
    if mark is not None:
        np.testing.assert_equal(found, mark)


@given(
    npst.arrays(float, npst.array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([1.0, 0.0, -1.0, np.nan]))
)
@settings(max_examples=50, deadline=None)
def test_any_mark_is_the_strongest_in_each_row(marks):
    before = marks.copy()
    strength = [1.0, -1.0, 0.0]
    expected = [next((mark for mark in strength if mark in row), np.nan) for row in marks.tolist()]
    np.testing.assert_array_equal(any_mark(marks), expected)
    np.testing.assert_array_equal(marks, before)
