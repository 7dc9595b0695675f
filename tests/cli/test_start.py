"""The start of every command: help and the printed config come at once, without torch."""

from __future__ import annotations

import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERBS = sorted(path.stem for path in (ROOT / "chexreason" / "cli").glob("[!_]*.py") if path.stem != "checks")
SCRIPT = """
import atexit, importlib, sys
atexit.register(lambda: print("torch:", "torch" in sys.modules, file=sys.stderr))
importlib.import_module("chexreason.cli." + sys.argv.pop(1)).main()
"""


def started(verb: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The command's output, and the seconds of processor time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    chosen = ["sweep=table2", "name=x"] * (verb == "sweep")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, verb, *arguments, *chosen], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job")], ids=" ".join)
@pytest.mark.parametrize("verb", VERBS)
def test_a_command_explains_itself_at_once(verb, arguments):
    spent = []
    while len(spent) < 3 and (not spent or spent[-1] > 2.0):
        done, seconds = started(verb, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "torch: False\n"
        spent.append(seconds)
    assert min(spent) <= 2.0


@pytest.mark.slow
def test_the_commands_that_load_no_model_import_no_torch(tmp_path, monkeypatch):
    small = ("data.sets.phantom_a.source.n={sft: 4, rl: 0, val: 2, test: 2}", "data.sets.phantom_b.source.n={val: 2}")
    out = f"paths.out={tmp_path}"
    with tarfile.open(ROOT / "tests" / "archive" / "e964570.tar.xz") as tar:
        tar.extractall(tmp_path, [m for m in tar if m.name.startswith(("demo/", "table2/"))], filter="data")
    file = f"file={tmp_path}/phantom/traces/free_reasoning/traces.jsonl"
    for verb, *arguments in (
        ("prepare", out, *small),
        ("traces", out, *small),
        ("review", out, file, "reviewers=[anna]", "serve=false"),
        ("report", "paths.out=out", "name=demo", "data=phantom", "n_resamples=20"),
        ("tables", "paths.out=out", "scale=tiny", "table=table2", "n_resamples=20"),
    ):
        monkeypatch.chdir(tmp_path / {"report": "demo", "tables": "table2"}.get(verb, ""))
        done, _ = started(verb, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "torch: False"
