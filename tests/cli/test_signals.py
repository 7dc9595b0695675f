"""The waiting thread: whatever the main thread does or holds, a signal ends the process with status 75."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from chexreason import signals

TERM, USR1, USR2 = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
HEAD = """
import ctypes, logging, multiprocessing, os, signal, subprocess, sys, threading, time
from chexreason import signals
def act(name):
    time.sleep(0.3)
    signals.say(f"kept at {name}")
def ready():
    os.write(1, b"ready\\n")
def busy():
    end = time.monotonic() + 60
    while time.monotonic() < end: pass
def fail(name):
    raise OSError("the disk is full")
"""
WAYS = {
    "python": "busy()",
    "a foreign function": "ctypes.CDLL(None).pause(); ctypes.CDLL(None).sleep(60); ctypes.CDLL(None).sleep(60)",
    "a lock of the log": "log = logging.StreamHandler(); log.acquire(); logging.getLogger().addHandler(log); busy()",
    "an exception that unwinds": "os.kill(os.getpid(), signal.SIGTERM); raise ValueError",
    "a handler in front": "signal.signal(signal.SIGTERM, lambda *args: sys.exit(3)); busy()",
    "another wake-up pipe": "signal.set_wakeup_fd(-1); busy()",
    "a loader worker": "multiprocessing.get_context('fork').Process(target=busy, daemon=True).start(); busy()",
}


def script(body: str) -> subprocess.Popen:
    code = HEAD + f"with signals.watched(), signals.on_leave(act):\n    ready()\n{textwrap.indent(body, '    ')}\n"
    return started(code, start_new_session=True)


def started(code: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ended(process: subprocess.Popen, *numbers: signal.Signals) -> tuple[int, str]:
    process.stdout.readline()
    time.sleep(0.2)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.05)
    _, said = process.communicate(timeout=20)
    return process.returncode, said


@pytest.mark.parametrize("number", [TERM, USR1, USR2])
def test_each_signal_keeps_what_is_ready(number):
    status, said = ended(script(WAYS["a foreign function"]), number)
    assert (status, said) == (75, f"kept at {number.name}\n{number.name}: stopped; the same command continues\n")


def test_restart_is_not_to_be_given_again():
    """It would set aside what has just been kept."""
    process = script("import sys\nsys.argv.append('restart=true')\nbusy()")
    assert ended(process, TERM)[1].endswith("SIGTERM: stopped; the same command without restart=true continues\n")


@pytest.mark.parametrize("way", WAYS)
def test_whatever_the_main_thread_does_a_second_signal_changes_nothing(way):
    process = script(WAYS[way])
    status, said = ended(process, TERM, USR1, signal.SIGINT, TERM)
    assert status == 75
    assert said.count("kept at SIGTERM") == said.count("kept") == 1
    assert not running(process.pid)  # no worker is left behind


def running(group: int) -> list[str]:
    """The processes of a group that have not ended, after a moment for the system to end them."""
    time.sleep(0.1)
    found = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True, check=False)
    return [state for state in found.stdout.split() if not state.startswith("Z")]


def test_one_act_that_fails_does_not_stop_the_others():
    status, said = ended(script("with signals.on_leave(fail):\n    busy()"), TERM)
    assert (status, said.splitlines()[:2]) == (75, ["SIGTERM: OSError: the disk is full", "kept at SIGTERM"])


def test_a_signal_to_a_forked_worker_is_its_own():
    body = """
        worker = multiprocessing.get_context("fork").Process(target=busy)
        worker.start()
        os.kill(worker.pid, signal.SIGUSR1)
        time.sleep(0.3)
        alive = worker.is_alive()
        worker.terminate()
        worker.join()
        print(alive, worker.exitcode, flush=True)
    """
    out, said = script(textwrap.dedent(body)).communicate(timeout=20)
    assert (out.splitlines()[1:], said) == (["True -15"], "")


def test_outside_the_block_a_signal_means_what_it_did():
    code = HEAD + "with signals.watched():\n    pass\nready(); busy()"
    assert ended(started(code), TERM) == (-TERM, "")


# What `scontrol -o show job` says of a job, what else is set, which number is requeued, and what is said of it.
RUNNING = "echo JobId=7 Command=/a=b JobState=RUNNING Reason=None Requeue=1 BatchFlag=1"
ARRAY = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
WAY_OUT = r".*set #SBATCH --requeue, .*--signal=B:USR1@120"
JOBS = {
    "running": (RUNNING, {}, "7", "SLURM job 7 is requeued"),
    "an array's task": (RUNNING, ARRAY, "7_3", "SLURM job 7_3 is requeued"),
    "out of time": ("echo JobState=COMPLETING Reason=TimeLimit Requeue=1 BatchFlag=1", {}, "7", "7 is requeued"),
    "cancelled": (
        "echo JobState=CANCELLED Reason=None Requeue=1 BatchFlag=1",
        {},
        None,
        r"7 was cancelled \(CANCELLED",
    ),
    "being cancelled": ("echo JobState=COMPLETING Reason=None Requeue=1 BatchFlag=1", {}, None, "7 was cancelled"),
    "not requeueable": (RUNNING.replace("Requeue=1", "Requeue=0"), {}, None, f"Requeue is 0{WAY_OUT}"),
    "interactive": (RUNNING.replace("BatchFlag=1", "BatchFlag=0"), {}, None, "^$"),
    "no answer": ("exec sleep 60", {}, None, f"timed out{WAY_OUT}"),
    "no controller": ("echo Unable to contact slurm controller >&2; exit 1", {}, None, f"Unable to contact{WAY_OUT}"),
    "forbidden": (RUNNING, {"DOES": "echo it is disabled >&2; exit 1"}, "7", f"it is disabled{WAY_OUT}"),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_requeued_or_it_is_said_why_not_and_what_to_set(tmp_path, monkeypatch, capfd, job):
    show, more, number, says = JOBS[job]
    path, requeued = tmp_path / "scontrol", tmp_path / "requeued"
    path.write_text(f'#!/bin/sh\ncase "$*" in *show*) {show};; *) echo "$2" >> {requeued}; eval "$DOES";; esac\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    for name, value in {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **more}.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    signals.requeue()
    assert time.monotonic() - start < 10  # of the 18 s that a command has to end
    assert (requeued.read_text().strip() if requeued.exists() else None) == number
    assert re.search(says, capfd.readouterr().err)
