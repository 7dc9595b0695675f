"""SIGTERM, SIGUSR1 and SIGUSR2 end a command at once, whatever it is doing: what is ready is kept, and it continues."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

PREEMPTED = 75  # exit status EX_TEMPFAIL: the same command continues
_ENDING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_LIMIT = 18.0  # seconds after which the process ends even if a disk does not answer
_SLURM = 4.0  # seconds SLURM has to answer

# What a launcher sets in the environment: 0 in all of them, or unset, marks the first process of a run.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
_acts: list[Callable[[str], None]] = []  # what is done before the process ends, the last first
_left = threading.Event()
_reading = threading.Lock()  # held while a byte of the pipe is taken and understood
_pipe: tuple[int, int] | None = None  # wakes the waiting thread: its two ends


@contextmanager
def watched() -> Iterator[None]:
    """In the block, a signal does what ``on_leave`` asked for and ends the process with status PREEMPTED.

    A Python handler waits for the main thread, which may sit in a collective for minutes. The operating system writes
    the signal's number into a pipe at once, and a thread reads it there. Forked processes are not watched. Does nothing
    outside the main thread and inside another such block.
    """
    global _pipe
    if _pipe is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = _pipe = os.pipe()
    os.set_blocking(writing, False)
    earlier = {number: signal.signal(number, _park) for number in _ENDING}
    earlier_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reading,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        _park_if_told()
        if _pipe is not None:  # a forked process has forgotten it
            signal.set_wakeup_fd(earlier_pipe)
            for number, handler in earlier.items():
                signal.signal(number, handler or signal.SIG_DFL)
            os.close(writing)
            _pipe = None


@contextmanager
def on_leave(act: Callable[[str], None]) -> Iterator[None]:
    """Have ``act`` called with the signal's name when one comes during the block; it runs in a thread of its own.

    The main thread does not go on then, and may hold any lock: ``act`` neither logs nor prints (see ``say``).
    """
    _acts.append(act)
    try:
        yield
    finally:
        _park_if_told()
        if act in _acts:  # a forked process has forgotten it
            _acts.remove(act)


def say(text: str) -> None:
    """Write a line to stderr without taking a lock."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def continues() -> str:
    """Which command goes on with one that was ended: with restart=true again, it would begin once more."""
    anew = {"restart=true", "+restart=true"} & {word.lower() for word in sys.argv}
    return f"the same command{' without restart=true' if anew else ''} continues"


def leave_to_parent(worker: int = 0) -> None:
    """In a loader's worker: a signal to the whole job is its parent's, which ends its workers."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def is_first_rank() -> bool:
    """True in the one process of a run that writes its directory; known before there is a trainer to ask."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def await_first_rank(name: str) -> None:
    """Let a further rank leave last: the first one writes, and its peers' broken connections would disturb it."""
    parent, end = os.getppid(), time.monotonic() + _LIMIT - 3
    while os.getppid() == parent and time.monotonic() < end:
        time.sleep(0.1)


def requeue() -> None:
    """Ask SLURM to run this job again, and say so; where that is not to be, say why and what to set.

    Does nothing outside a batch job. A job that was cancelled stays so.
    """
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if job is None:
        return
    if array is not None:  # the bare number of the last task is that of the whole array
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    status, shown = _scontrol("-o", "show", "job", job)
    facts = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    state, timed_out = facts.get("JobState", ""), facts.get("Reason") == "TimeLimit"
    if facts.get("BatchFlag") == "0":
        return
    if not status and state.startswith(("CANCELLED", "COMPLETING")) and not timed_out:
        say(f"SLURM job {job} was cancelled ({state}) and is not requeued: submit it again to continue")
        return
    if not status and facts.get("Requeue") != "0":
        status, shown = _scontrol("requeue", job)
        if not status:
            say(f"SLURM job {job} is requeued")
            return
    reason = shown.strip().splitlines()[-1][-200:] if status and shown.strip() else "its Requeue is 0"
    say(
        f"SLURM job {job} is not requeued ({reason}): submit it again, the same command continues. To have it "
        "requeued, set #SBATCH --requeue, --open-mode=append and --signal=B:USR1@120 (with srun: --signal=USR1@120); "
        "where the cluster forbids it, JobRequeue=1 in slurm.conf is the administrator's"
    )


def _scontrol(*arguments: str) -> tuple[int, str]:
    """Status and output of SLURM's command; status 1 and the reason where it does not answer."""
    try:
        done = subprocess.run(
            ["scontrol", *arguments], capture_output=True, text=True, timeout=_SLURM, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stderr if done.returncode else done.stdout


def _park(number: int | None = None, frame: FrameType | None = None) -> NoReturn:
    """Keep the main thread from going on; as a handler, wake the thread as well, if another pipe is in force."""
    if number is not None and _pipe is not None:
        with suppress(OSError):
            os.write(_pipe[1], bytes([number]))
    while True:
        with suppress(BaseException):  # Ctrl-C, a dead loader worker: the process is ending
            time.sleep(60.0)


def _park_if_told() -> None:
    """Park where a signal has come, though a handler of another's made an exception of it."""
    while _pipe is not None:
        with _reading:
            if _left.is_set() or not select.select(_pipe[:1], [], [], 0)[0]:
                break
        time.sleep(0.001)  # the thread is about to read
    if _left.is_set():
        _park()


def _wait(reading: int) -> None:
    while True:
        select.select([reading], [], [])
        with _reading:
            byte = os.read(reading, 1)
            if byte and byte[0] in _ENDING:
                _left.set()
        if not byte:
            return os.close(reading)
        if _left.is_set():
            _leave(signal.Signals(byte[0]).name)


def _leave(name: str) -> None:
    limit = threading.Timer(_LIMIT, os._exit, (PREEMPTED,))
    limit.daemon = True
    limit.start()
    try:
        for act in _acts[::-1]:
            try:
                act(name)
            except BaseException as error:
                say(f"{name}: {type(error).__name__}: {str(error).encode('unicode_escape').decode()}")
        for child in multiprocessing.active_children():
            child.kill()
        say(f"{name}: stopped; {continues()}")
        for stream in (sys.stdout, sys.stderr):
            flushing = threading.Thread(target=_flush, args=(stream,), daemon=True)
            flushing.start()
            flushing.join(1.0)  # the main thread may hold its lock
    finally:
        os._exit(PREEMPTED)


def _flush(stream: object) -> None:
    with suppress(Exception):
        stream.flush()  # type: ignore[attr-defined]


def _mask(how: int = signal.SIG_UNBLOCK) -> None:
    if _pipe is not None:  # or a signal to the child alone would be written into the pipe
        signal.pthread_sigmask(how, _ENDING)


def _forget() -> None:
    """In a forked process: a signal to it is none of its parent's."""
    global _pipe
    if _pipe is not None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        leave_to_parent()
        _mask()
        for end in _pipe:
            os.close(end)
        _pipe = None
        _acts.clear()


os.register_at_fork(before=lambda: _mask(signal.SIG_BLOCK), after_in_parent=_mask, after_in_child=_forget)
