"""What the benchmarks share: the rows of their tables, time and memory of a step, and the best this machine can do."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from chexreason.files import write_json

FOLDER = Path("out/bench")
Row = dict[str, Any]
T = TypeVar("T")


def row(
    case: str,
    metric: str,
    ours: float,
    peer: float | None = None,
    ratio: float | None = None,
    bar: float | None = None,
) -> Row:
    """One line of a table: our figure, the peer's, their ratio and the bar it is held against."""
    return {"case": case, "metric": metric, "ours": ours, "peer": peer, "ratio": ratio, "bar": bar}


def show(line: Row) -> None:
    """Print one line of a table."""
    peer = "" if line["peer"] is None else f"{line['peer']:.3f}"
    ratio = "" if line["ratio"] is None else f"x{line['ratio']:.2f}"
    bar = "" if line["bar"] is None else f"bar {line['bar']:g}"
    print(f"{line['case']:<72} {line['ours']:>10.3f} {line['metric']:<16} {peer:>10} {ratio:>7}  {bar}", flush=True)


def report(name: str, rows: Iterable[Row]) -> None:
    """Print rows as they come, then write them all to ``out/bench/<name>.json``."""
    found = []
    for line in rows:
        show(line)
        found.append(line)
    write_json(FOLDER / f"{name}.json", found)


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Wall time of ``work``, or its time on another ``clock``."""
    start = clock()
    work()
    return clock() - start


def in_turns(works: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each of ``works`` returns in ``rounds`` calls; the order changes, so that none is always the first."""
    found: dict[str, list[T]] = {name: [] for name in works}
    for turn in range(rounds):
        for name in works if turn % 2 else reversed(works):
            found[name].append(works[name]())
    return found


@cache
def matmul_rate(dtype: str = "float32") -> float:
    """FLOP/s of this machine's best product of two matrices, one thread."""
    left, right = (torch.randn(1024, 1024).to(getattr(torch, dtype)) for _ in range(2))
    return 2 * 1024**3 / min(seconds(lambda: left @ right, time.process_time) for _ in range(5))


def extra_memory(step: Callable[[], object], n: int = 1) -> int:
    """Bytes that ``n`` steps need above what the process held before; in this process, which is then used up."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = _resident("VmRSS")
    for _ in range(n):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def printed_by(module: str, *words: object) -> str:
    """What ``python -m module words`` prints: a measurement in a process of its own."""
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
