"""Processes in the order of their needs: failures, retries, kills and Ctrl-C, each job done exactly once."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chexreason.runs import attempts, record_attempt
from chexreason.sweep.launch import Job, failures, last_error, launch, seconds_of, states_of
from tests.support.deep import all_deep_but

WORK = "test -f $DONE || { sleep 0.15; basename $(dirname $DONE) >> $RUNS; echo {} > $DONE; }"


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """``job(name, script, *needs)``; ``$DONE`` is the marker and ``$RUNS`` a file that every job appends to."""

    def make(name: str, script: str = "echo {} > $DONE", *needs: str) -> Job:
        run_dir = tmp_path / name
        run_dir.mkdir(exist_ok=True)
        done = run_dir / "DONE"
        command = ("sh", "-c", f"DONE={done}; RUNS={tmp_path}/runs.txt; {script}")
        return Job(name, f"hash-{name}", "fake", command, run_dir, done, tmp_path / "logs" / f"{name}.log", needs)

    return make


def launched(jobs, slots=1, limit=2):
    said: list[str] = []
    return launch(jobs, slots=slots, limit=limit, say=said.append), said


def finished(*jobs, state="done"):
    for job in jobs:
        job.proof.write_text("{}")
        record_attempt(job.run_dir, job.digest, state)


@pytest.mark.slow
def test_jobs_run_after_what_they_need_and_only_once(tmp_path, job):
    chain = [job("a", "echo a >> $RUNS; echo {} > $DONE"), job("b", "echo b >> $RUNS; echo {} > $DONE", "a")]
    states, said = launched(chain, slots=2)
    assert states == {"a": "done", "b": "done"}
    assert (tmp_path / "runs.txt").read_text() == "a\nb\n"
    assert [line.split(":")[0] for line in said] == ["a", "a", "b", "b"]
    assert launched(chain)[1] == []  # all skipped
    (tmp_path / "a" / "DONE").unlink()  # its run was deleted: its attempts alone prove nothing
    again = launched(chain)[1]
    assert [line for line in again if "started" in line] == ["a: started", "b: started"]  # b was made from a
    assert launched(chain)[1] == []


def test_what_was_made_before_its_need_is_not_done(tmp_path, job):
    chain = a, b = [job("a"), job("b", "echo {} > $DONE", "a")]
    finished(a, b)
    assert states_of(chain, 2) == {"a": "done", "b": "done"}
    record_attempt(a.run_dir, a.digest, "done")  # the command was given again, and found it finished
    assert states_of(chain, 2) == {"a": "done", "b": "done"}
    finished(a)  # trained again, and the sweep was stopped before b
    assert states_of(chain, 2) == {"a": "done", "b": "waiting"}
    finished(b)
    os.utime(a.proof)  # copied to another disk
    assert states_of(chain, 2) == {"a": "done", "b": "done"}
    a.proof.unlink()
    assert states_of(chain, 2) == {"a": "waiting", "b": "waiting"}


@pytest.mark.slow
def test_a_need_that_was_made_by_a_clock_ahead_is_waited_for_by_no_one(tmp_path, job, monkeypatch):
    chain = a, b = [job("a"), job("b", "echo b >> $RUNS; echo {} > $DONE", "a")]
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda now=time.time: now() + 3600)
        finished(a)
    os.utime(a.proof, (time.time() + 3600,) * 2)
    finished(b)
    assert launched(chain)[0] == {"a": "done", "b": "done"}
    assert (tmp_path / "runs.txt").read_text() == "b\n"  # once: it cannot be told which was first


def test_a_sweep_without_an_attempt_is_refused(job):
    with pytest.raises(ValueError, match="attempts=0: one attempt"):
        launched([job("a")], limit=0)


def test_a_marker_of_another_config_proves_nothing(job):
    one = job("a")
    finished(one)
    record_attempt(one.run_dir, "hash-other", "done")  # its folder was removed and filled under another config
    assert states_of([one], 2) == {"a": "waiting"}
    record_attempt(one.run_dir, one.digest, "failed", error="holds a run with another config")
    assert states_of([one], 1) == {"a": "failed"}
    shutil.rmtree(one.run_dir)  # as the error asks
    assert states_of([one], 1) == {"a": "waiting"}


@pytest.mark.parametrize(
    ("events", "state", "failed"),
    [
        ([], "waiting", 0),
        (["running"], "cut", 0),
        (["running", "preempted"], "cut", 0),
        (["running", "failed"], "waiting", 1),
        (["running", "failed", "running", "failed"], "failed", 2),
        (["failed", "failed", "done", "failed"], "waiting", 1),
        (["failed", "running", "cut"], "cut", 1),
        (["failed", "done"], "done", 0),
    ],
)
def test_states_and_failures_come_from_the_attempts(job, events, state, failed):
    one = job("a")
    one.proof.write_text("{}")
    for event in events:
        record_attempt(one.run_dir, one.digest, event)
    assert (states_of([one], 2)["a"], failures(one)) == (state, failed)


def test_a_kind_costs_what_its_finished_runs_took_all_attempts_together(tmp_path):
    for seed, states in enumerate((["failed", "cut", "done"], ["done"], ["done", "failed"])):
        for place in ("sft", "eval/sft"):
            for state in states:
                folder = tmp_path / place / f"seed{seed}"
                record_attempt(folder, "a", state, kind=place.partition("/")[0], seconds=2.0)
    assert seconds_of(tmp_path) == {"sft": 4.0, "eval": 4.0}


@pytest.mark.slow
def test_a_failure_blocks_what_needs_it_and_nothing_else(tmp_path, job):
    jobs = [
        job("a", "echo 'error: no room' >&2; exit 3"),
        job("b", "echo {} > $DONE", "a"),
        job("c", "echo {} > $DONE", "b"),
        job("d"),
        job("silent", "true"),
    ]
    states, said = launched(jobs)
    assert states == {"a": "failed", "b": "blocked", "c": "blocked", "d": "done", "silent": "failed"}
    assert last_error(jobs[0]) == "exit status 3: error: no room"
    ends = [{key: event.get(key) for key in ("state", "status", "kind", "cell")} for event in attempts(tmp_path / "a")]
    assert ends[1::2] == [{"state": "failed", "status": 3, "kind": "fake", "cell": "a"}] * 2
    assert attempts(tmp_path / "b") == []
    assert "ended without" in last_error(jobs[4])
    assert sum("failed" in line for line in said) == 4  # both tried twice
    assert (tmp_path / "logs" / "a.log").read_text().count("no room") == 2
    assert launched(jobs)[1] == []  # as often as allowed, over all sweeps
    assert launched([job("a"), *jobs[1:4]], limit=3)[0] == dict.fromkeys("abcd", "done")


def test_a_failure_that_passes_is_tried_again(tmp_path, job):
    flaky = job("a", "test -f $RUNS && echo {} > $DONE || { echo a > $RUNS; kill -9 $$; }")
    states, said = launched([flaky])
    assert states == {"a": "done"}
    assert said[1] == "a: failed, tried again: killed by signal 9 (out of memory?)"
    assert [event.get("signal") for event in attempts(tmp_path / "a")] == [None, 9, None, None]
    assert failures(flaky) == 0


@pytest.mark.slow
def test_a_job_that_was_preempted_did_not_fail_and_goes_on_with_the_next_sweep(tmp_path, job):
    jobs = [job("a", "echo a >> $RUNS; test -f $DONE.half && echo {} > $DONE || { touch $DONE.half; exit 75; }")]
    jobs += [job("b", "echo {} > $DONE", "a"), job("c")]
    states, said = launched(jobs, limit=1)
    assert states == {"a": "cut", "b": "waiting", "c": "done"}
    assert "a: preempted; the next start of the sweep continues it" in said
    end = attempts(tmp_path / "a")[-1]
    assert (end["state"], end["status"], failures(jobs[0])) == ("preempted", 75, 0)
    assert (tmp_path / "runs.txt").read_text() == "a\n"
    assert launched(jobs, limit=1)[0] == dict.fromkeys("abc", "done")


DRIVER = """
import pickle, signal, sys
from chexreason.errors import friendly
from chexreason.signals import watched
from chexreason.sweep.launch import launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
jobs = pickle.load(open(sys.argv[1], "rb"))
with friendly(), watched():
    launch(jobs, slots=2, limit=2, say=lambda text: print(text, flush=True))
"""


def driven(tmp_path: Path, jobs) -> subprocess.Popen:
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "jobs")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def alive_within(seconds: float, place: Path, wanted: bool) -> bool:
    """Whether a process runs whose command names ``place``, as soon as that is ``wanted`` or after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        found = f"DONE={place}" in listed
        if found == wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process outlives its sweep and is refused its lock")
def test_no_process_outlives_a_killed_sweep(tmp_path, job):
    process = driven(tmp_path, [job("endless", "while :; do sleep 0.05; done")])
    assert alive_within(5, tmp_path / "endless", True)
    process.kill()
    process.wait()
    assert not alive_within(5, tmp_path / "endless", False)


@pytest.mark.slow
@pytest.mark.parametrize("number", all_deep_but(signal.SIGTERM, [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
def test_a_sweep_stopped_in_the_middle_ends_with_every_job_done_exactly_once(tmp_path, job, number):
    status, state = {signal.SIGINT: (130, "cut"), signal.SIGTERM: (75, "preempted")}.get(number, (-number, "running"))
    names = [f"j{i}" for i in range(12)]
    jobs = [job(name, WORK, *names[max(0, i - 2) : max(0, i - 1)]) for i, name in enumerate(names)]
    for _ in range(2):
        process = driven(tmp_path, jobs)
        for _ in range(5):
            process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(number)
        process.send_signal(number)  # a second one changes nothing
        assert process.wait(20) == status
        assert not alive_within(5, tmp_path / "j", False)
    states = [event["state"] for one in jobs for event in attempts(one.run_dir)[-1:]]
    assert states.count("done") < len(jobs)
    assert state in states
    assert "failed" not in states
    assert launched(jobs)[0] == dict.fromkeys(names, "done")
    assert sorted((tmp_path / "runs.txt").read_text().split()) == sorted(names)
