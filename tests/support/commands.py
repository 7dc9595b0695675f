"""Whole commands in processes of their own, started from one that has imported everything, and ended from outside."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

SETS = (
    "data.sets.phantom_a.source.n={sft: 11, rl: 8, val: 3, test: 3}",  # of 11, SFT holds two back
    "data.sets.phantom_b.source.n={val: 2, test: 2}",
)
COMMON = (
    *SETS,
    "name=run",
    "prompt=only_label",
    "preflight=false",
    "callbacks.progress=false",
    "callbacks.checkpoint_every=1",
    "+adapter.targets=.*language_model.*layers.0.*q_proj",  # one projection: the order of events is tested
)
# SFT with dropout: three epochs of five batches, two to an update. GRPO whose reward remembers: seven rollouts of two
# updates in epochs of three, a validation behind every second one, so none at the end.
ARMS = {
    "sft": (
        *COMMON,
        "experiment=demo_sft",
        "phase.dropout=0.1",
        "phase.batch_size=2",
        "phase.accumulate=2",
        "phase.max_epochs=3",
        "model.max_new_tokens=4",
    ),
    "stopped": (  # by early stopping, after the second of its epochs
        *COMMON,
        "experiment=demo_sft",
        "arm=stopped",
        "phase.batch_size=2",
        "phase.monitor=val/phantom_a/macro_f1",
        "phase.patience=1",
        "model.max_new_tokens=4",
    ),
    "grpo": (
        *COMMON,
        "phase=grpo",
        "reward=nuanced",
        "reward.collapse.size=8",
        "reward.collapse.dominance=0.2",
        "phase.limit=6",
        "phase.rollouts=7",
        "phase.batch_size=2",
        "phase.module.group_size=3",
        "phase.val_check_interval=2",
        "phase.lr=3e-4",
        "model.max_new_tokens=16",
    ),
}


def _busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


# What a step is made to do for a minute; the second releases the interpreter and never returns to it.
WAYS: dict[str, Callable[[float], object]] = {
    "python": _busy,
    "c": lambda seconds: _in_c(int(seconds)),
}


def _in_c(seconds: int) -> None:
    while seconds := ctypes.CDLL(None).sleep(seconds):  # a signal would end it sooner
        pass


def _plant(place: str, attribute: str, n: int, way: str, mark: Path, rank: str = "0") -> None:
    """Make the n-th call of a function of the package last a minute, and say when it has begun."""
    from pkgutil import resolve_name

    owner = resolve_name(place)
    original, calls = getattr(owner, attribute), []

    def slow(*args, **kwargs):
        calls.append(1)
        if len(calls) == n and os.environ.get("LOCAL_RANK", "0") == rank:
            mark.touch()
            WAYS[way](60.0)
        return original(*args, **kwargs)

    setattr(owner, attribute, slow)


def _command(verb: str, arguments: list[str], environment: Mapping[str, str], log: Path, plant: tuple | None) -> None:
    import torch

    torch.set_num_threads(1)  # two threads add in another order than one
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, as in a command from a shell
    # Lightning starts further ranks as `python -m` of this module
    sys.modules["__main__"].__spec__ = importlib.util.find_spec(f"chexreason.cli.{verb}")
    sys.argv = [verb, *arguments]
    if plant:
        _plant(*plant)
    importlib.import_module(f"chexreason.cli.{verb}").main()


# torch's threads do not survive a fork, so the server has imported everything and computed nothing.
_START = multiprocessing.get_context("forkserver")
_START.set_forkserver_preload(["chexreason.build.training", "chexreason.cli.train", "transformers"])


class Command:
    """A command that has been started; ``log`` holds what it says."""

    def __init__(
        self,
        out: Path,
        verb: str,
        *arguments: str,
        plant: tuple | None = None,
        environment: Mapping[str, str] | None = None,
        log: str = "log.txt",
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.log, self.mark = out / log, out / "stuck"
        self.mark.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)
        planted = (*plant[:4], self.mark, *plant[4:]) if plant else None
        given = [*arguments, f"paths.out={out}"]
        self.process: BaseProcess = _START.Process(
            target=_command, args=(verb, given, dict(environment or {}), self.log, planted)
        )
        self.process.start()

    def wait(self, seconds: float = 200.0) -> int:
        """Its exit status, negative for a signal; fails where it does not end."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s: {self.said()}"
        return self.process.exitcode

    def done(self) -> None:
        """Wait for it to end well."""
        assert self.wait() == 0, self.said()

    def stuck(self) -> None:
        """Wait for the planted function."""
        self.until(self.mark.exists)

    def until(self, seen: Callable[[], bool], seconds: float = 200.0) -> None:
        """Wait for what is seen from outside, or for the end of the command."""
        end = time.monotonic() + seconds
        while self.process.is_alive() and not seen():
            assert time.monotonic() < end, f"not seen in {seconds} s: {self.said()}"
            time.sleep(0.002)

    def send(self, number: signal.Signals) -> None:
        """A signal to this process alone."""
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def rank_environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun sets for one of two ranks."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    names = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    return names | {name: str(value) for name, value in ranks.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def what_is_left(folder: Path) -> dict[str, bytes]:
    """What a finished run left, but for times, attempts and what names its place."""
    names = ("metrics.csv", "samples.jsonl", "collapse.json", "predictions.jsonl", "metrics.json")
    files = [*(folder / name for name in names), *folder.glob("rewards-rank*.csv"), *folder.glob("adapter/[bl]*/*")]
    left = {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}
    done = json.loads((folder / "DONE").read_text())
    return left | {"DONE": json.dumps({key: done[key] for key in done if "/" in key or key == "studies"}).encode()}


def resumed(out: Path, *arguments: str, **kwargs) -> dict[str, bytes]:
    """What the command leaves once it has been given again, and has come to its end."""
    Command(out, "train", *arguments, **kwargs).done()
    return what_is_left(next(out.glob("run/*/seed0")))


def assert_equal(left: dict[str, bytes], right: dict[str, bytes]) -> None:
    """The same files with the same bytes."""
    assert left.keys() == right.keys()
    assert not [name for name in left if left[name] != right[name]]
