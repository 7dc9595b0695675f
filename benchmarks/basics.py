"""Speed of the two pure pieces with a bar: rendering phantoms, and the patient-clustered bootstrap.

    make bench-basics

Prints a table and writes ``out/bench/basics.json``. There is no peer to race here, so the bar is absolute; run it on a
quiet machine. Medians of five.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from chexreason.files import write_json
from chexreason.labels.catalog import CHEXPERT14
from chexreason.statistics.bootstrap import intervals, replicates
from chexreason.types import Prediction
from tools.tiny_models.phantom_stream import stream


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of ``work`` after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def predictions(n: int) -> list[Prediction]:
    """Random answers to one study of each of ``n`` patients."""
    rng = np.random.default_rng(0)
    labels = np.array(CHEXPERT14.labels)

    def draw() -> tuple[str, ...]:
        return tuple(labels[rng.random(len(labels)) < 0.2].tolist())

    return [Prediction(f"s{i}", f"p{i}", "set", "", draw(), draw(), CHEXPERT14.labels) for i in range(n)]


def main() -> None:
    """Measure, print, write."""
    n_images = 100
    rate = n_images / median_seconds(lambda: list(islice(stream(0, ("a", "b"), 160), n_images)))
    answers = predictions(500)
    seconds = median_seconds(lambda: intervals(replicates(answers, CHEXPERT14.labels, n_resamples=10_000, seed=0)))
    rows = [
        {"case": "phantoms at 160 px, one core", "metric": "images/s", "ours": rate, "bar": 100.0},
        {"case": "bootstrap, 10,000 x 500 patients x 14 labels", "metric": "s", "ours": seconds, "bar": 3.0},
    ]
    for row in rows:
        row |= {"peer": None, "ratio": None}
        print(f"{row['case']:<48} {row['ours']:>8.2f} {row['metric']} (bar {row['bar']:g})")
    write_json(Path("out/bench/basics.json"), rows)


if __name__ == "__main__":
    main()
