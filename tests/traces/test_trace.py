"""Traces on the disk: what is read back, and what is wrong with a file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.traces.trace import Trace, check_labels, read_traces, write_traces

ROW = {
    "study_id": "s1", "patient_id": "p1", "dataset": "d", "image_path": "a.png", "labels": ["Edema"],
    "prompt": "free_reasoning", "text": "<think>Wet.</think><solution>Edema</solution>",
}  # fmt: skip


def trace(i: int, labels: tuple[str, ...] = ("Edema",)) -> Trace:
    return Trace(f"s{i}", f"p{i}", "d", f"{i}.png", labels, "free_reasoning", f"text {i}")


def test_traces_survive_the_disk(tmp_path):
    traces = [trace(1), replace(trace(2, ()), text="line\u2028break \u00e9 <b>\n=1+1")]
    write_traces(tmp_path / "t.jsonl", traces)
    assert read_traces(tmp_path / "t.jsonl") == traces
    (tmp_path / "t.jsonl").write_text(json.dumps(ROW | {"usd": 0.1}) + "\n\n")  # one field more than is needed
    assert read_traces(tmp_path / "t.jsonl") == [Trace(**ROW | {"labels": ("Edema",)})]


def test_one_message_lists_every_kind_of_fault(tmp_path):
    bad = [
        "{half", "[1]", json.dumps({"study_id": "x"}), json.dumps(ROW | {"labels": "Edema"}),
        json.dumps(ROW | {"text": None}), json.dumps(ROW | {"text": " "}), json.dumps(ROW | {"text": "\ud800"}),
        "[" * 100_000, json.dumps(ROW), json.dumps(ROW),
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(bad))
    with pytest.raises(ValueError, match="not a file of traces") as caught:
        read_traces(tmp_path / "t.jsonl")
    for kind in (
        "not JSON: 2, e.g. line 1, line 8", "not a JSON object: 1", "missing patient_id", "'labels' is not a list",
        "text not text", "text empty", "surrogate", "study and prompt twice: 1, e.g. line 10 (s1 / free_reasoning)",
    ):  # fmt: skip
        assert kind in str(caught.value)


def test_a_missing_or_empty_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"chexreason\.cli\.traces"):
        read_traces(tmp_path / "none.jsonl")
    (tmp_path / "t.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no traces"):
        read_traces(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match="not JSON: 1"):
        read_traces(tmp_path / "t.jsonl")


def test_labels_of_another_set_are_refused():
    check_labels([trace(1)], CHEXPERT14)
    with pytest.raises(ValueError, match=r"'Hernia' \(2\)"):
        check_labels([trace(1, ("Hernia",)), trace(2, ("Hernia", "Edema"))], CHEXPERT14)
