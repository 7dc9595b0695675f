"""An old study's ledger, read one last time: its runs are done as before, whatever of its lines a kill cut."""

from __future__ import annotations

import json

import pytest

from chexreason.runs import ATTEMPTS, RunError, attempts
from chexreason.sweep.launch import only_sweep
from chexreason.sweep.old_ledger import convert_ledger


def test_a_ledger_becomes_the_attempts_of_its_runs(tmp_path, caplog):
    study = tmp_path / "moved" / "study"
    places = {
        "sft": "sft/seed0",
        "evaluate": "eval/study/seed0",
        "scores": "scores/a/seed0",
        "prepare": "",
        "grpo": "gone/seed0",
    }
    for place in list(places.values())[:4]:
        (study / place).mkdir(parents=True, exist_ok=True)
    lines = [
        {"digest": kind, "state": state, "time": float(i), "job": kind, "kind": kind, "seed": 0, "log": "x.log"}
        | {"run_dir": f"out/study/{place}".rstrip("/")}
        | ({"seconds": 2.0} if state == "done" else {})
        for i, (kind, place) in enumerate(places.items())
        for state in ("running", "done")
    ]
    blocked = {"digest": "b", "state": "blocked", "time": 9.0, "job": "b", "run_dir": "out/study/sft/seed0"}
    ledger = study / "ledger.jsonl"
    ledger.write_text("".join(json.dumps(line) + "\n" for line in [*lines, blocked]) + '{"digest": "a", "sta')
    with only_sweep(study), pytest.raises(RunError, match="in use by another sweep"):
        convert_ledger(study)
    with caplog.at_level("INFO"):
        convert_ledger(study)
    for kind, place in list(places.items())[:4]:
        assert attempts(study / place) == [line for line in lines if line["kind"] == kind]
    assert not (study / "gone").exists()
    assert not ledger.exists()
    assert len([record for record in caplog.records if "ledger" in record.message]) == 1
    (study / "ledger.jsonl.converted").rename(ledger)  # as if a kill had come before the renaming
    before = (study / "sft/seed0" / ATTEMPTS).read_text()
    convert_ledger(study)
    assert (study / "sft/seed0" / ATTEMPTS).read_text() == before
