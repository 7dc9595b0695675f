"""Speed of the two pure pieces with a bar: rendering phantoms, and the patient-clustered bootstrap.

    make bench-basics

Prints a table and writes ``out/bench/basics.json``. There is no peer to race here, so the bar is absolute; run it on a
quiet machine. Medians of five.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import islice

import numpy as np

from benchmarks.measure import report, row, seconds
from chexreason.labels.catalog import CHEXPERT14
from chexreason.statistics.bootstrap import intervals, replicates
from chexreason.types import Prediction
from tools.tiny_models.phantom_stream import stream


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of ``work`` after one warm-up."""
    return statistics.median([seconds(work) for _ in range(repeats + 1)][1:])


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
    spent = median_seconds(lambda: intervals(replicates(answers, CHEXPERT14.labels, n_resamples=10_000, seed=0)))
    rows = [
        row("phantoms at 160 px, one core", "images/s", rate, bar=100.0),
        row("bootstrap, 10,000 x 500 patients x 14 labels", "s", spent, bar=3.0),
    ]
    report("basics", rows)


if __name__ == "__main__":
    main()
