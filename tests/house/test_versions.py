"""The supported versions: the tested set twice, the newest, the oldest; each in a fresh environment, by network."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.deep, pytest.mark.slow, pytest.mark.timeout(5400)]
SETS = (
    "data.sets.phantom_a.source.n={sft: 4, rl: 4, val: 2, test: 2}",
    "data.sets.phantom_b.source.n={val: 2, test: 2}",
)


def run(*command: object, **kwargs: object) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, **kwargs)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def installed(folder: Path, constraints: Path | None, *more: str) -> Path:
    """The interpreter of a fresh environment that holds the package; skips where no index can be reached."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    probe = subprocess.run(
        [python, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, "packaging"], check=False
    )
    if probe.returncode:
        pytest.skip("no package index can be reached")
    pinned = ["--constraint", constraints] if constraints else []
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *pinned,
        "--editable",
        f"{ROOT}[dev]",
        *more,
    )
    run(python, "-m", "pip", "check")
    return python


def works(python: Path, out: Path) -> None:
    """The fast tests pass, and so do the first two steps of the demo, on a few films."""
    run(
        python,
        "-m",
        "pytest",
        "-m",
        "not slow and not deep",
        "-n",
        "2",
        "--deselect",
        "tests/house/test_dependencies.py",
        cwd=ROOT,
    )
    common = (f"paths.out={out}", "name=demo", "model.max_new_tokens=8", *SETS)
    run(python, "-m", "chexreason", "prepare", *common[:2], *SETS, cwd=ROOT)
    run(python, "-m", "chexreason", "evaluate", "arm=base", *common, cwd=ROOT)


def test_the_tested_set_is_the_same_twice(tmp_path):
    one, two = (installed(tmp_path / name, ROOT / "constraints.txt") for name in ("one", "two"))
    assert run(one, "-m", "pip", "freeze") == run(two, "-m", "pip", "freeze")


def test_the_newest_set_works(tmp_path):
    works(installed(tmp_path / "newest", None), tmp_path / "out")


def test_the_oldest_set_works(tmp_path):
    """Lower bounds of what runs, torch aside: its builds go with the machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = {Requirement(text).name: str(Requirement(text).specifier) for text in project["dependencies"]}
    lines = [
        f"{name}=={next(part[2:] for part in bounds.split(',') if part.startswith('>='))}"
        for name, bounds in lowest.items()
        if name not in ("torch", "torchvision")
    ]
    (tmp_path / "oldest.txt").write_text("\n".join(lines) + "\n")
    works(installed(tmp_path / "oldest", tmp_path / "oldest.txt"), tmp_path / "out")
