"""Our GRPO step against the GRPOTrainer of TRL 1.16: same model, prompts, LoRA, lengths and updates, steps in turns.

    make bench-grpo
    python -m benchmarks.grpo --family gemma3 --group 4 --tokens 128 --dtype float32

A step samples a group for each of two studies (every completion is forced to its full length), scores them under the
reference, and makes one optimiser step, a group a backward pass on either side. Random weights: speed is what is
measured. Time is the CPU time of one thread, which other work on the machine disturbs least; medians over rounds in
turns. FLOPs are counted in the first step, products and attention; the minimum takes every image and prompt once a
pass. Peak memory is that of a process of its own for each side, over what it held before its first step. A case
replaces its rows in ``out/bench/grpo.json``: ``ratio`` is peer over ours for time, ours over peer for memory.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial

import torch

from benchmarks import measure
from benchmarks.grpo_sides import Case, Side, ours, peer
from benchmarks.grpo_work import counted, minimum
from benchmarks.measure import Row
from benchmarks.models import FAMILIES
from chexreason.build.model import quiet
from chexreason.files import write_json

OUT = measure.FOLDER / "grpo.json"
SIDES: dict[str, Callable[[Case], Side]] = {"ours": ours, "peer": peer}
# peer over ours, of a whole step, by tokens and group; other sizes, and their parts, stand against no bar
BARS = {(128, 4): 2.0, (128, 8): 3.0, (370, 4): 1.6, (370, 8): 2.0}
PART_BARS, MEMORY_BAR = {"reference": 2.5, "rollout": 1.5, "update": None}, 0.6
CURVE = (1, 2, 4, 8)  # completions of a study, at 8 in all


def seconds(side: Side) -> dict[str, float]:
    """CPU seconds of one step by part."""
    side.clock.seconds.clear()
    start = time.process_time()
    side.step()
    whole = time.process_time() - start
    parts = {name: side.clock.seconds.get(name, 0.0) for name in ("rollout", "reference")}
    return parts | {"update": whole - sum(parts.values()), "step": whole}


def measured(case: Case, rounds: int) -> Iterator[Row]:
    """Time, work and memory of one case."""
    sides = {name: build(case) for name, build in SIDES.items()}
    flops = {name: counted(side.step) for name, side in sides.items()}  # warms up as well
    times = measure.in_turns({name: partial(seconds, side) for name, side in sides.items()}, rounds)
    median = {
        name: {part: statistics.median(t[part] for t in found) for part in found[0]} for name, found in times.items()
    }
    tokens = case.studies * case.group * case.tokens
    whole = BARS.get((case.tokens, case.group))
    bars = {"step": whole, **PART_BARS}
    for part, bar in bars.items() if whole else dict.fromkeys(bars).items():
        mine, theirs = median["ours"][part], median["peer"][part]
        yield row(case, f"{part}, CPU s", mine, theirs, theirs / mine, bar)
        yield row(case, f"{part}, tokens/s", tokens / mine, tokens / theirs, theirs / mine, bar)
    least, peak = minimum(sides["ours"].model, case), measure.matmul_rate(case.dtype)
    mine, theirs = flops["ours"], flops["peer"]
    yield row(case, "FLOPs of a step, over the minimum", mine / least, theirs / least, theirs / mine)
    shares = [flops[name] / median[name]["step"] / peak for name in ("ours", "peer")]
    yield row(case, f"share of matmul peak ({peak / 1e9:.0f} GFLOP/s)", *shares)
    mine, theirs = (
        float(measure.printed_by(__spec__.name, "--memory", name, *_arguments(case))) / 1e6 for name in SIDES
    )
    yield row(case, "peak above idle, MB", mine, theirs, mine / theirs, MEMORY_BAR if whole else None)


def curve(case: Case, rounds: int) -> Iterator[Row]:
    """Our step at a fixed number of completions, in groups of growing size: the share of image and prompt vanishes."""
    for group in CURVE:
        one = Case(case.family, group, case.tokens, case.dtype, studies=max(CURVE) // group)
        side = ours(one)
        side.step()
        found = [seconds(side)["step"] for _ in range(rounds)]
        yield row(one, "our step at 8 completions, CPU s", statistics.median(found))


def row(case: Case, metric: str, *numbers: float | None) -> Row:
    """One line of the table."""
    return measure.row(str(case), metric, *numbers)


def _arguments(case: Case) -> list[str]:
    names = ("--family", "--group", "--tokens", "--dtype")
    return [str(word) for pair in zip(names, astuple(case), strict=False) for word in pair]


def run(rows: Iterator[Row]) -> None:
    """Print rows as they come and put them in place of the ones they measure anew."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    for line in rows:
        with OUT.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two cases may be measured side by side
            old = json.loads(OUT.read_text()) if OUT.exists() else []
            key = (line["case"], line["metric"].split(" (")[0])
            write_json(OUT, [r for r in old if (r["case"], r["metric"].split(" (")[0]) != key] + [line])
        measure.show(line)


def asked() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", choices=("one", "curve", "quick", "all"), default="one")
    parser.add_argument("--family", choices=FAMILIES, default="gemma3")
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", choices=tuple(SIDES), help="only print the peak of one side, in bytes")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write; several cases run in a process each."""
    quiet()
    torch.set_num_threads(1)
    args = asked()
    case = Case(args.family, args.group, args.tokens, args.dtype)
    if args.memory:
        print(measure.extra_memory(SIDES[args.memory](case).step))
    elif args.cases == "one":
        run(measured(case, args.rounds))
    elif args.cases == "curve":
        run(curve(case, args.rounds))
    else:
        wide = args.cases == "all"
        for family in FAMILIES:
            for dtype in ("float32", "bfloat16") if wide else ("float32",):
                for tokens, group in BARS:
                    words = _arguments(Case(family, group, tokens, dtype))
                    subprocess.run(
                        [sys.executable, "-m", __spec__.name, *words, "--rounds", str(args.rounds)], check=True
                    )
            run(curve(Case(family, 1, 128, "float32"), args.rounds))


if __name__ == "__main__":
    main()
