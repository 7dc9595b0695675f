"""Several ranks without several starts: processes forked from this one, which has the libraries imported."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 280.0  # seconds after which ranks that have not ended are taken for hung


@pytest.fixture
def on_ranks(tmp_path: Path) -> Callable[..., list[Any]]:
    """``on_ranks(world, work)`` calls ``work(rank)`` in ``world`` processes and returns what each of them returned."""

    def run(world: int, work: Callable[[int], Any]) -> list[Any]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        port = _free_port()
        ranks = [_fork(rank, world, port, work, folder) for rank in range(world)]
        _join(ranks)
        return [_load(folder / f"{rank}.pt") for rank in range(world)]

    return run


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _fork(rank: int, world: int, port: int, work: Callable[[int], Any], folder: Path) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        import torch

        torch.set_num_threads(1)  # torch makes its pool anew in a fork: here, before the threads that load weights race
        if world > 1:
            launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "NODE_RANK": 0}
            os.environ.update({name: str(value) for name, value in {**launch, "LOCAL_RANK": rank}.items()})
        torch.save(work(rank), folder / f"{rank}.pt")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # no clean-up of pytest's in a copy of it


def _join(ranks: list[int]) -> None:
    """Waits for all; fails, and leaves none behind, as soon as one has failed or all have taken too long."""
    running, deadline = set(ranks), time.monotonic() + PATIENCE
    try:
        while running:
            for pid in list(running):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    running.remove(pid)
                    assert status == 0, f"rank {ranks.index(pid)} failed: see its traceback"
            assert time.monotonic() < deadline, f"hung: ranks {[ranks.index(pid) for pid in running]}"
            time.sleep(0.01)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _load(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)
