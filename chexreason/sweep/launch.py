"""Running jobs: a process each, needs first, a few at a time; one that fails stops only those that need it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexreason import signals
from chexreason.files import start_of
from chexreason.owners import locked
from chexreason.runs import ATTEMPT_OF, ATTEMPTS, RunError, attempts, record_attempt

_PATIENCE = 15.0  # seconds a process has to end after a signal before it is killed; its run resumes either way
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """One process of a sweep: a cell at a seed.

    ``digest`` is the hash of its config, ``kind`` what it costs like, ``proof`` the file that is there once it is done.
    """

    name: str
    digest: str
    kind: str
    command: tuple[str, ...]
    run_dir: Path
    proof: Path
    log: Path
    needs: tuple[str, ...] = ()


@contextmanager
def only_sweep(study: Path) -> Iterator[None]:
    """Hold a study's folder; the lock ends with the process. Raises RunError where another sweep has it."""
    study.mkdir(parents=True, exist_ok=True)
    refusal = RunError(f"{study} is in use by another sweep: wait for it, or choose another name=")
    with locked(study / "SWEEP.lock", refusal):
        yield


def states_of(jobs: Sequence[Job], limit: int, ended: Collection[str] = ()) -> dict[str, str]:
    """Each job's "done", "failed" (``limit`` times), "blocked" by one that failed, "cut" (never ended), or "waiting".

    ``jobs`` are in the order of their needs. A job is done where its run directory was last filled under its own
    digest, and after everything it needs was made: otherwise its command runs again, and finds its run unchanged or
    says what is not. Clocks differ between machines, so the ``ended``, which this process saw end well after their
    needs, are done whatever the times say.
    """
    states: dict[str, str] = {}
    made: dict[str, float] = {}  # s since 1970
    for job in jobs:
        needs = {states[need] for need in job.needs}
        events = attempts(job.run_dir)
        own = [event["state"] for event in events if event["digest"] == job.digest]
        end: dict[str, Any] = next((event for event in events[::-1] if event["state"] == "done"), {})
        filled = own[-1:] == ["done"] and end["digest"] == job.digest and job.proof.exists()
        if filled and needs <= {"done"} and (job.name in ended or all(made[need] <= end["time"] for need in job.needs)):
            states[job.name] = "done"
            made[job.name] = min(end["time"], job.proof.stat().st_mtime)  # a command that finds it done makes nothing
        elif needs & {"failed", "blocked"}:
            states[job.name] = "blocked"
        elif failures(job) >= limit:
            states[job.name] = "failed"
        else:
            states[job.name] = "cut" if own and own[-1] not in ("done", "failed") else "waiting"
    return states


def failures(job: Job) -> int:
    """How often a job failed under its config since it was last done."""
    states = [event["state"] for event in attempts(job.run_dir) if event["digest"] == job.digest]
    since = len(states) - states[::-1].index("done") if "done" in states else 0
    return states[since:].count("failed")


def last_error(job: Job) -> str:
    """Why a job failed the last time; empty where it never did."""
    return next((str(event.get("error")) for event in attempts(job.run_dir)[::-1] if event["state"] == "failed"), "")


def seconds_of(study: Path) -> dict[str, float]:
    """Mean seconds of the finished runs of a study by kind, all attempts at a run together."""
    spent: dict[str, list[float]] = {}
    for path in (study / ATTEMPTS, *study.glob(f"*/seed*/{ATTEMPTS}"), *study.glob(f"*/*/seed*/{ATTEMPTS}")):
        events = attempts(path.parent)
        if events and events[-1]["state"] == "done":
            seconds = sum(event.get("seconds", 0.0) for event in events)
            spent.setdefault(events[-1].get("kind", ""), []).append(seconds)
    return {kind: sum(each) / len(each) for kind, each in spent.items()}


def launch(jobs: Sequence[Job], *, slots: int, limit: int, say: Callable[[str], None]) -> dict[str, str]:
    """Run what is not done, ``slots`` at a time, ``limit`` failures each; returns "done", "failed" or "blocked" by job.

    A job that a signal ended with status PREEMPTED is "cut" and runs again in the next sweep; what needs it is
    "waiting". ``say`` is called with a line about each start and end. On Ctrl-C or a signal the running processes get
    it and are waited for; KeyboardInterrupt passes on. Raises ValueError when ``slots`` or ``limit`` is below 1.
    """
    if slots < 1:
        raise ValueError(f"jobs={slots}: one process at a time is the least")
    if limit < 1:
        raise ValueError(f"attempts={limit}: one attempt at a cell is the least")
    running: dict[str, _Process] = {}
    with signals.on_leave(lambda name: _stop(running, signals.say, signal.Signals[name], "preempted")):
        try:
            return _run_all(jobs, running, slots, limit, say)
        except KeyboardInterrupt:
            _stop(running, say, signal.SIGINT, "cut")
            raise


def _run_all(
    jobs: Sequence[Job], running: dict[str, _Process], slots: int, limit: int, say: Callable[[str], None]
) -> dict[str, str]:
    ended: dict[str, str] = {}
    while True:
        states = states_of(jobs, limit, [name for name, state in ended.items() if state == "done"])
        for job in jobs:
            ready = states[job.name] in ("waiting", "cut") and all(states[need] == "done" for need in job.needs)
            if ready and ended.get(job.name) != "preempted" and job.name not in running and len(running) < slots:
                say(f"{job.name}: {'resumed' if states[job.name] == 'cut' else 'started'}")
                running[job.name] = _Process(job, max(1, (os.cpu_count() or 1) // slots))
        if not running:
            return states
        while not (over := [name for name, process in running.items() if process.popen.poll() is not None]):
            time.sleep(0.05)
        for name in over:
            ended[name], said = running.pop(name).end(limit)
            say(said)


class _Process:
    """A job's process, from its start to the record of its end."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.start = job, time.monotonic()
        self.record("running")
        job.log.parent.mkdir(0o700, parents=True, exist_ok=True)  # a log names studies
        with job.log.open("ab") as log:
            self.popen = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": str(threads), **os.environ, ATTEMPT_OF: str(job.run_dir.resolve())},
                start_new_session=True,  # so that Ctrl-C reaches it once, from here
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def record(self, state: str, **facts: object) -> None:
        job = self.job
        if state != "running":
            status = self.popen.returncode
            how = {"status": status} if status is None or status >= 0 else {"signal": -status}
            facts |= {"pid": self.popen.pid, "seconds": time.monotonic() - self.start, **how}
        record_attempt(job.run_dir, job.digest, state, cell=job.name, kind=job.kind, log=str(job.log), **facts)

    def end(self, limit: int) -> tuple[str, str]:
        """Record how the process ended; returns its state and a line that says how."""
        job, status = self.job, self.popen.returncode
        if status == 0 and job.proof.exists():
            self.record("done")
            return "done", f"{job.name}: done in {time.monotonic() - self.start:.0f} s"
        if status == signals.PREEMPTED:
            self.record("preempted")
            return "preempted", f"{job.name}: preempted; the next start of the sweep continues it"
        error = _reason(job, status)
        self.record("failed", error=error)
        return "failed", f"{job.name}: failed{', tried again' if failures(job) < limit else ''}: {error}"

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)


def _stop(running: Mapping[str, _Process], say: Callable[[str], None], number: int, state: str) -> None:
    for name, process in running.items():
        say(f"{name}: stopping")
        process.signal(number)
    deadline = time.monotonic() + _PATIENCE
    for process in running.values():
        while process.popen.poll() is None and start_of(process.popen.pid) is not None:
            if time.monotonic() > deadline:
                process.signal(signal.SIGKILL)
            time.sleep(0.05)
        process.record(state)


def _die_with_parent() -> None:
    """In the child: be killed when the sweep dies, so that its run is free for the sweep that continues."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _reason(job: Job, status: int) -> str:
    """Why a process failed, in a line: its own error, or its last words."""
    if status < 0:
        return f"killed by signal {-status}" + (" (out of memory?)" if status == -signal.SIGKILL else "")
    if status == 0:
        return f"ended without {job.proof}"
    lines = [line.strip() for line in job.log.read_bytes()[-20_000:].decode(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("Set the environment variable HYDRA_FULL_ERROR")]
    errors = [line for line in lines if line.startswith("error:")] or lines
    return f"exit status {status}" + (f": {errors[-1][:300]}" if errors else "")
