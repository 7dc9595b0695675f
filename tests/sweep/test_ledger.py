"""The ledger: what it read is what was written, whatever a kill or an editor did to the file; one sweep a folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.sweep.ledger import STATES, Ledger, SweepError, only_sweep

EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(STATES)), max_size=8)


@settings(max_examples=50, deadline=None)
@given(EVENTS, st.floats(0, 1))
@pytest.mark.slow
def test_a_file_cut_anywhere_loses_at_most_its_last_event(tmp_path_factory, events, share):
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger(path)
    for digest, state in events:
        ledger.record(digest, state, job=digest)
    whole = path.read_bytes() if events else b""
    cut = round(share * len(whole))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].split(b"\n")  # an event whose line end alone is missing is whole
    complete = [json.loads(line) for line in whole.splitlines() if line in kept]
    again = Ledger(path)
    again.mend()
    assert sorted((e["time"], e["state"]) for own in again.events.values() for e in own) == sorted(
        (e["time"], e["state"]) for e in complete
    )
    assert len(complete) >= whole[:cut].count(b"\n")
    again.record("a", "done")
    assert Ledger(path).last("a")["state"] == "done"
    assert not Ledger(path).corrupt


def test_corrupt_lines_are_said_and_set_aside(tmp_path, caplog):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.record("a", "done", job="a")
    with path.open("a") as file:
        file.write('{"digest": "b", "sta\n{"digest": "b", "state": "perhaps", "time": 1.0}\n[1]\n\xff\n')
    ledger.record("c", "failed", job="c")
    again = Ledger(path)
    assert len(again.corrupt) == 4
    assert path.read_text().count("\n") == 6  # reading alone moves nothing: plan=true must not write
    again.mend()
    assert "4 lines" in caplog.text
    assert (tmp_path / "ledger.jsonl.corrupt").read_text().startswith('{"digest": "b", "sta\n')
    assert [json.loads(line)["digest"] for line in path.read_text().splitlines()] == ["a", "c"]
    assert (again.last("a")["state"], again.last("c")["state"], again.last("b")) == ("done", "failed", {})


@pytest.mark.parametrize(
    "line",
    [
        '{"digest": "b", "state": "done", "time": 1.0, "kind": "sft", "seconds": null}',
        '{"digest": "b", "state": "done", "time": 1.0, "kind": "sft", "seconds": "long"}',
        '{"digest": "b", "state": "done", "time": 1.0, "kind": "sft", "seconds": NaN}',
        '{"digest": "b", "state": "done", "time": NaN}',
        '{"digest": "b", "state": "done", "time": 1.0, "job": ["b"]}',
        "[" * 100_000,
    ],
)
def test_an_event_that_cannot_be_added_up_is_corrupt(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).record("a", "done", kind="sft", job="a", seconds=2.0)
    with path.open("a") as file:
        file.write(line + "\n")
    ledger = Ledger(path)
    assert ledger.corrupt == [line]
    assert (ledger.seconds("sft"), ledger.done("b")) == (2.0, {})
    ledger.mend()
    assert (tmp_path / "ledger.jsonl.corrupt").read_text() == line + "\n"
    assert Ledger(path).last("a")["state"] == "done"


def test_failures_count_since_the_last_success_and_seconds_add_up(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for state in ("running", "failed", "running", "done", "running", "failed", "running", "cut"):
        ledger.record("a", state, kind="sft", seconds=2.0)
    assert ledger.failures("a") == 1
    assert ledger.failures("b") == 0
    assert ledger.seconds("sft") is None  # what is not done has no price
    ledger.record("a", "done", kind="sft", seconds=4.0)
    assert ledger.failures("a") == 0
    assert ledger.seconds("sft") == 8 * 2.0 + 4.0


HOLD = """
import sys, time
from pathlib import Path
from chexreason.sweep.ledger import only_sweep
with only_sweep(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.mark.slow
def test_a_second_sweep_in_one_folder_is_refused_and_a_killed_one_blocks_nobody(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SweepError, match="in use by another sweep"), only_sweep(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with only_sweep(tmp_path):
        pass
