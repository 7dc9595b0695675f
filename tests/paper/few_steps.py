"""Every cell of the paper's sweep in a few steps: ``make test-paper``.

Runs all cells of ``sweep=ranking`` (the paper's and the label scores) on a handful of phantoms, then the same command
again, which must start none, then every table and figure twice, which must be equal to the byte and have no gap.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = (
    "data.sets.phantom_a.source.n={sft: 8, rl: 4, val: 4, test: 16}",
    "data.sets.phantom_b.source.n={val: 2, test: 16}",
)
FAST = ("debug=fast", "phase.batch_size=4", "preflight=false", "model.max_new_tokens=8", "callbacks.progress=false")
EXTRA = {
    "prepare": ("audit=false",),
    "train": FAST,
    "evaluate": ("max_new_tokens=8",),
    "scores": ("max_new_tokens=8", "samples=2"),
}
GAP = "missing"  # the status of a figure without a run


def listed(*words: str) -> str:
    return "[" + ",".join("'" + word.replace("'", "\\'") + "'" for word in words) + "]"


def run(verb: str, *arguments: str) -> str:
    """What a command prints; raises SystemExit where it fails."""
    command = [sys.executable, "-m", f"chexreason.cli.{verb}", *arguments]
    print(f"{verb} {' '.join(arguments)}"[:110], flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{verb} ended with {done.returncode}")
    return done.stdout


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


def main() -> None:
    """Run everything in a folder that goes away; raises SystemExit with what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        common = (f"paths.out={folder}", "name=few", "scale=tiny")
        sweep = (*common, "sweep=ranking", "sweep.rows=null", "jobs=2")
        sweep += tuple(f"extra.{verb}={listed(*words, *SMALL)}" for verb, words in EXTRA.items())
        said = run("sweep", *sweep)
        print(said.strip().splitlines()[-1])
        if "started" in run("sweep", *sweep):
            raise SystemExit("the second sweep started cells that were done")
        results = Path(folder) / "few" / "results"
        tables = (*common, "table=all", "n_resamples=50", "n_permutations=50")
        run("tables", *tables)
        first = hashes(results)
        run("tables", *tables)
        if first != hashes(results):
            raise SystemExit("tables made twice differ")
        expected = {
            *(f"table{i}.md" for i in range(1, 7)),
            "transfer.md",
            "ranking.md",
            *(f"fig{i}.csv" for i in (1, 2, 3)),
        }
        gaps = [name for name in first if name.endswith(".csv") and GAP in (results / name).read_text()]
        if lost := sorted(expected - first.keys()) or gaps:
            raise SystemExit(f"not made, or with gaps: {', '.join(lost)}")
        print(f"{len(first)} files of results, the same twice, no gap")


if __name__ == "__main__":
    main()
