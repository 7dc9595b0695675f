"""The one csv reader of all sources: what it accepts, and every fault with its place."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from chexreason.data.sources.columns import Faults, VendorCsv, any_mark

COLUMNS = ("id", "Edema", "Pleural Other")
TEXT = "id,Edema,note,Pleural Other\n7,1.0,a,\np7.0, -1,b,0\n12.0,,c,1\n"
LENGTH = "another length than the header"


def opened(folder: Path, data: str | bytes, renamed: dict[str, str] | None = None) -> tuple[VendorCsv, Faults]:
    """``data`` as a csv of the set 's', and the faults that reading it left."""
    (folder / "t.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
    faults = Faults("set 's'")
    return VendorCsv(folder / "t.csv", COLUMNS, faults, renamed), faults


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.replace("Pleural Other", " pleural OTHER "),
        lambda text: text.replace(",b,", ',"b, c",'),
        lambda text: gzip.compress(text.encode()),
    ],
    ids=["bom", "crlf", "trailing comma", "case", "quotes", "gzip"],
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
        (lambda text: text.replace(",", ";"), "is separated by ';', not by commas"),
        (lambda text: text.replace(",", "\t"), r"is separated by '\t', not by commas"),
        (lambda text: text.replace("Edema", "Oedema"), "lacks the columns 'Edema' (closest: 'Oedema'); its columns:"),
        (lambda text: text.replace("note", "edema"), "has several columns for 'Edema': Edema, edema; keep one"),
        (lambda text: text.replace("\n7", ",\n7"), f"has 3 rows of {LENGTH}: line 2 4 values for 5 columns, line 3"),
        (lambda text: text.replace(",a,", ",a,b,"), f"has 1 rows of {LENGTH}: line 2 5 values for 4 columns"),
        (lambda text: text.replace(",b,0", ""), f"has 1 rows of {LENGTH}: line 3 2 values for 4 columns"),
        (lambda text: text.split("\n")[0], "has a header and no rows"),
        (lambda text: "", "has no header line"),
        (lambda text: text.replace("-1", "ä").encode("latin-1"), "is not a table of UTF-8 text"),
        (lambda text: gzip.compress(text.encode())[:-12], "is damaged gzip"),
        (lambda text: gzip.compress(text.encode() + b" " * 2**16), "unpacks to more than 65,536 bytes: damaged, or"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, change, message, monkeypatch):
    monkeypatch.setattr("chexreason.data.sources.columns.MAX_UNPACKED", 2**16, raising=False)
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
        "t.csv: 3 rows that repeat a id: line 6 '1.5', line 7 '1.5', line 8 '1.5'",
    ]


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
