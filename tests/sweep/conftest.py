"""A job whose command is a shell line, done when it wrote its DONE marker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chexreason.sweep.launch import Job


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
