"""Processes in the order of their needs: failures, retries, kills and Ctrl-C, each job done exactly once."""

from __future__ import annotations

import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chexreason.sweep.launch import Launcher, states_of
from chexreason.sweep.ledger import Ledger

WORK = "test -f $DONE || { sleep 0.15; basename $(dirname $DONE) >> $RUNS; echo {} > $DONE; }"


def launched(tmp_path, jobs, slots=1, attempts=2):
    said: list[str] = []
    ledger = Ledger(tmp_path / "ledger.jsonl")
    states = Launcher(ledger, slots=slots, attempts=attempts, say=said.append).run(jobs)
    return states, said, ledger


@pytest.mark.slow
def test_jobs_run_after_what_they_need_and_only_once(tmp_path, job):
    chain = [
        job("a", "echo a >> $RUNS; echo '{\"f1\": 0.5}' > $DONE"),
        job("b", "echo b >> $RUNS; echo {} > $DONE", "a"),
    ]
    states, said, ledger = launched(tmp_path, chain, slots=2)
    assert states == {"a": "done", "b": "done"}
    assert (tmp_path / "runs.txt").read_text() == "a\nb\n"
    assert ledger.last("hash-a")["metrics"] == {"f1": 0.5}
    assert [line.split(":")[0] for line in said] == ["a", "a", "b", "b"]
    assert launched(tmp_path, chain)[1] == []  # all skipped
    (tmp_path / "a" / "DONE").unlink()  # its run was deleted: the ledger alone proves nothing
    again = launched(tmp_path, chain)[1]
    assert [line for line in again if "started" in line] == ["a: started", "b: started"]  # b was made from a
    assert launched(tmp_path, chain)[1] == []


def test_what_was_made_before_its_need_is_not_done(tmp_path, job):
    chain, ledger = [job("a"), job("b", "echo {} > $DONE", "a")], Ledger(tmp_path / "ledger.jsonl")
    for one in chain:
        one.proof.write_text("{}")
        ledger.record(one.digest, "done", job=one.name)
    assert states_of(chain, ledger, 2) == {"a": "done", "b": "done"}
    ledger.record("hash-a", "done", job="a")  # trained again, and the sweep was stopped before b
    assert states_of(chain, ledger, 2) == {"a": "done", "b": "waiting"}
    ledger.record("hash-b", "done", job="b")
    assert states_of(chain, ledger, 2) == {"a": "done", "b": "done"}
    (tmp_path / "a" / "DONE").unlink()
    assert states_of(chain, ledger, 2) == {"a": "waiting", "b": "waiting"}


def test_a_marker_of_another_config_proves_nothing(tmp_path, job):
    one, ledger = job("a"), Ledger(tmp_path / "ledger.jsonl")
    one.proof.write_text("{}")
    ledger.record(one.digest, "done", job="a")
    ledger.record("hash-other", "done", job="a")  # its folder was removed and filled under another config
    assert states_of([one], ledger, 2) == {"a": "waiting"}
    ledger.record(one.digest, "failed", job="a", error="holds a run with another config")
    assert states_of([one], ledger, 1) == {"a": "failed"}
    shutil.rmtree(one.run_dir)  # as the error asks
    assert states_of([one], ledger, 1) == {"a": "waiting"}


@pytest.mark.slow
def test_a_failure_blocks_what_needs_it_and_nothing_else(tmp_path, job):
    jobs = [
        job("a", "echo 'error: no room' >&2; exit 3"),
        job("b", "echo {} > $DONE", "a"),
        job("c", "echo {} > $DONE", "b"),
        job("d"),
        job("silent", "true"),
    ]
    states, said, ledger = launched(tmp_path, jobs)
    assert states == {"a": "failed", "b": "blocked", "c": "blocked", "d": "done", "silent": "failed"}
    assert ledger.last("hash-a")["error"] == "exit status 3: error: no room"
    assert ledger.last("hash-b")["error"] == "needs a"
    assert "ended without" in ledger.last("hash-silent")["error"]
    assert sum("failed" in line for line in said) == 4  # both tried twice
    assert (tmp_path / "logs" / "a.log").read_text().count("no room") == 2
    assert launched(tmp_path, jobs)[1] == []  # as often as allowed, over all sweeps
    assert launched(tmp_path, [job("a"), *jobs[1:4]], attempts=3)[0] == dict.fromkeys("abcd", "done")


def test_a_failure_that_passes_is_tried_again(tmp_path, job):
    flaky = job("a", "test -f $RUNS && echo {} > $DONE || { echo a > $RUNS; kill -9 $$; }")
    states, said, ledger = launched(tmp_path, [flaky])
    assert states == {"a": "done"}
    assert said[1] == "a: failed, tried again: killed by signal 9 (out of memory?)"
    assert ledger.failures("hash-a") == 0


DRIVER = """
import pickle, signal, sys
from pathlib import Path
from chexreason.sweep.launch import Launcher
from chexreason.sweep.ledger import Ledger
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
jobs = pickle.load(open(sys.argv[1], "rb"))
try:
    Launcher(Ledger(Path(sys.argv[2])), slots=2, attempts=2, say=lambda text: print(text, flush=True)).run(jobs)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def driven(tmp_path: Path, jobs) -> subprocess.Popen:
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "jobs"), str(tmp_path / "ledger.jsonl")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def alive(place: Path) -> bool:
    """True while a process runs whose command names ``place``."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return f"DONE={place}" in listed


def alive_within(seconds: float, place: Path, wanted: bool) -> bool:
    """Whether it is alive, as soon as that is ``wanted`` or after so many seconds."""
    deadline = time.monotonic() + seconds
    while alive(place) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive(place)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process outlives its sweep and is refused its lock")
def test_no_process_outlives_a_killed_sweep(tmp_path, job):
    process = driven(tmp_path, [job("endless", "while :; do sleep 0.05; done")])
    assert alive_within(5, tmp_path / "endless", True)
    process.kill()
    process.wait()
    assert not alive_within(5, tmp_path / "endless", False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sweep_stopped_in_the_middle_ends_with_every_job_done_exactly_once(tmp_path, job, number):
    names = [f"j{i}" for i in range(12)]
    jobs = [job(name, WORK, *names[max(0, i - 2) : max(0, i - 1)]) for i, name in enumerate(names)]
    for _ in range(2):
        process = driven(tmp_path, jobs)
        for _ in range(5):
            process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(20) == (130 if number == signal.SIGINT else -number)
        assert not alive_within(5, tmp_path / "j", False)
    states = [e[-1]["state"] for e in Ledger(tmp_path / "ledger.jsonl").events.values()]
    assert states.count("done") < len(jobs)
    assert ("cut" in states) == (number == signal.SIGINT)
    assert launched(tmp_path, jobs)[0] == dict.fromkeys(names, "done")
    assert sorted((tmp_path / "runs.txt").read_text().split()) == sorted(names)
