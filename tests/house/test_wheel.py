"""A wheel is complete: configuration, page template and shipped models travel with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    listed = subprocess.run(["git", "ls-files", "chexreason"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [name for name in listed.stdout.splitlines() if not (tmp_path / "site" / name).is_file()] == []
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}  # goes before the editable install
    command = [sys.executable, "-m", "chexreason.cli.train", "--cfg", "job", "experiment=demo_sft"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert "name: demo" in shown.stdout
    where = "import chexreason.confdir as c, chexreason.model.load as l; "
    where += "print(c.confdir(), l.resolve_source('tiny:tiny_gemma3'))"
    found = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert found.stdout.count(str(tmp_path / "site")) == 2, found.stdout + found.stderr
