"""Running jobs: a process each, needs first, a few at a time; one that fails stops only those that need it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexreason.sweep.ledger import BLOCKED, CUT, DONE, FAILED, RUNNING, Ledger

PATIENCE = 15.0  # seconds a process has to end after Ctrl-C before it is killed; its run resumes either way
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """One process of a sweep: a cell at a seed.

    ``digest`` is the hash of its config, ``kind`` what it costs like, ``proof`` the file that is there once it is done.
    """

    name: str
    digest: str
    kind: str
    seed: int
    command: tuple[str, ...]
    run_dir: Path
    proof: Path
    log: Path
    needs: tuple[str, ...] = ()


def states_of(jobs: Sequence[Job], ledger: Ledger, attempts: int) -> dict[str, str]:
    """Each job's "done", "failed" (as often as allowed), "cut" (started and never ended), or "waiting".

    Needs come before what needs them. A job is done where its run directory was last filled under its own digest, and
    after everything it needs was: otherwise its command runs again, and finds its run unchanged or says what is not.
    """
    states: dict[str, str] = {}
    for job in jobs:
        last, end = ledger.last(job.digest).get("state"), ledger.done(job.name)
        own = last == DONE and end.get("digest") == job.digest and job.proof.exists()
        if own and all(states[need] == DONE and ledger.done(need)["time"] <= end["time"] for need in job.needs):
            states[job.name] = DONE
        elif ledger.failures(job.digest) >= attempts and job.run_dir.exists():  # removing it is what an error may ask
            states[job.name] = FAILED
        else:
            states[job.name] = CUT if last in (RUNNING, CUT) else "waiting"
    return states


class Launcher:
    """Runs jobs ``slots`` at a time and writes what happens to the ledger; ``say`` is told each start and end.

    Raises ValueError when ``slots`` is below 1.
    """

    def __init__(self, ledger: Ledger, *, slots: int, attempts: int, say: Callable[[str], None]) -> None:
        if slots < 1:
            raise ValueError(f"jobs={slots}: one process at a time is the least")
        self.ledger, self.slots, self.attempts, self.say = ledger, slots, attempts, say
        self.running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = {}
        self.states: dict[str, str] = {}

    def run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Run what is not done, in order; returns each job's state: "done", "failed" or "blocked".

        On Ctrl-C the running processes are told to stop and are waited for, and KeyboardInterrupt passes on.
        """
        self.states = states_of(jobs, self.ledger, self.attempts)
        todo = [job for job in jobs if self.states[job.name] not in (DONE, FAILED)]
        try:
            while todo or self.running:
                todo = self._start_ready(self._without_blocked(todo))
                todo += self._collect()
                time.sleep(0.05 if self.running else 0.0)
        except KeyboardInterrupt:
            self._stop()
            raise
        return self.states

    def _without_blocked(self, todo: list[Job]) -> list[Job]:
        kept = []
        for job in todo:
            broken = [need for need in job.needs if self.states.get(need) in (FAILED, BLOCKED)]
            if broken:
                self.states[job.name] = BLOCKED
                self._record(job, BLOCKED, error=f"needs {', '.join(broken)}")
            else:
                kept.append(job)
        return kept

    def _start_ready(self, todo: list[Job]) -> list[Job]:
        waiting = []
        for job in todo:
            ready = all(self.states.get(need) == DONE for need in job.needs)
            if ready and len(self.running) < self.slots:
                self._start(job)
            else:
                waiting.append(job)
        return waiting

    def _start(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.say(f"{job.name}: {'resumed' if self.states[job.name] == CUT else 'started'}")
        self._record(job, RUNNING)
        threads = str(max(1, (os.cpu_count() or 1) // self.slots))
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": threads, **os.environ},
                start_new_session=True,  # so that Ctrl-C reaches it once, from here
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self.running[job.name] = (job, process, time.monotonic())

    def _collect(self) -> list[Job]:
        """Take in the processes that ended; returns the jobs to try again."""
        again = []
        for name, (job, process, start) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            seconds = time.monotonic() - start
            if process.returncode == 0 and job.proof.exists():
                self.states[name] = DONE
                self._record(job, DONE, seconds=seconds, metrics=_metrics(job))
                self.say(f"{name}: done in {seconds:.0f} s")
                continue
            error = _reason(job, process.returncode)
            self._record(job, FAILED, seconds=seconds, error=error)
            retry = self.ledger.failures(job.digest) < self.attempts
            self.states[name] = "waiting" if retry else FAILED
            again += [job] if retry else []
            self.say(f"{name}: failed{', tried again' if retry else ''}: {error}")
        return again

    def _stop(self) -> None:
        for job, process, _ in self.running.values():
            self.say(f"{job.name}: stopping")
            _signal(process, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for job, process, start in self.running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
            self._record(job, CUT, seconds=time.monotonic() - start)

    def _record(self, job: Job, state: str, **facts: Any) -> None:
        where = {"job": job.name, "kind": job.kind, "seed": job.seed, "run_dir": str(job.run_dir), "log": str(job.log)}
        self.ledger.record(job.digest, state, **where, **facts)


def _die_with_parent() -> None:
    """In the child: be killed when the sweep dies, so that its run is free for the sweep that continues."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _reason(job: Job, status: int) -> str:
    """Why a process failed, in a line: its own error, or its last words."""
    if status < 0:
        return f"killed by signal {-status}" + (" (out of memory?)" if status == -signal.SIGKILL else "")
    if status == 0:
        return f"ended without {job.proof}"
    lines = [line.strip() for line in job.log.read_bytes()[-20_000:].decode(errors="replace").splitlines()]
    errors = [line for line in lines if line.startswith("error:")] or [line for line in lines if line]
    return f"exit status {status}" + (f": {errors[-1][:300]}" if errors else "")


def _metrics(job: Job) -> Mapping[str, Any]:
    """The figures a run left: those of an evaluation by set, else what its DONE marker holds."""
    path = job.run_dir / "metrics.json"
    if path.is_file():
        wanted = ("macro_f1", "micro_f1", "fail_rate")
        sets = json.loads(path.read_text())
        return {f"{name}/{key}": values[key] for name, values in sets.items() for key in wanted if key in values}
    text = job.proof.read_text() if job.proof.name == "DONE" else ""
    return json.loads(text) if text.startswith("{") else {}
