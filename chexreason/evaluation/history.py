"""A run's training history out of Lightning's ``metrics.csv``: curves, smoothed, and compared between start and end."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexreason.evaluation.bootstrap import Interval


@dataclass(frozen=True)
class Curve:
    """The logged values of one column: ``steps`` and ``values`` are [K], ascending in step."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def read_history(path: Path) -> dict[str, Curve]:
    """Every numeric column of a ``metrics.csv`` that is not all blank; blank and non-finite cells are left out.

    Raises FileNotFoundError, and ValueError naming line and column of a cell that is no number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    points: dict[str, list[tuple[float, float]]] = {}
    for line, row in enumerate(rows, start=2):
        step = _number(row.get("step"), f"{path}:{line}, column 'step'")
        for name, cell in row.items():
            if name in ("step", "epoch") or name is None:
                continue
            value = _number(cell, f"{path}:{line}, column '{name}'")
            if math.isfinite(value):
                points.setdefault(name, []).append((step if math.isfinite(step) else float(line), value))
    return {name: _curve(pairs) for name, pairs in points.items()}


def ema(values: NDArray[np.float64], decay: float = 0.95) -> NDArray[np.float64]:
    """Exponential moving average [K] of [K] with bias correction, so that it starts at the first value."""
    smooth, total, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        smooth[i] = total / weight
    return smooth


def fifths(curve: Curve, n_resamples: int = 10_000, seed: int = 0) -> dict[str, Interval]:
    """Mean of the first and of the last fifth of the steps and their difference, resampling steps within each fifth.

    Steps see different prompts, so they are taken as independent; drift inside a fifth widens its interval.
    Bounds are NaN with fewer than two steps a fifth.
    """
    size = max(1, len(curve.values) // 5)
    rng = np.random.default_rng(seed)
    first, last = curve.values[:size], curve.values[-size:]
    draws = [_resampled_means(part, rng, n_resamples) for part in (first, last)]
    return {
        "first_fifth": _interval(first.mean(), draws[0], size),
        "last_fifth": _interval(last.mean(), draws[1], size),
        "difference": _interval(last.mean() - first.mean(), draws[1] - draws[0], size),
    }


def _resampled_means(values: NDArray[np.float64], rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Means [n] of resamples, one at a time: [n, K] at once would not fit for the paper's 62,000 steps."""
    return np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(n)])


def _interval(value: float, draws: NDArray[np.float64], size: int) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975]) if size > 1 else (math.nan, math.nan)
    return Interval(float(value), float(low), float(high))


def _number(cell: str | None, place: str) -> float:
    if cell is None or not cell.strip():
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise ValueError(
            f"{place}: '{cell}' is not a number; is this a metrics.csv of Lightning's CSVLogger?"
        ) from None


def _curve(pairs: list[tuple[float, float]]) -> Curve:
    # The sort is stable: what a resumed run logged later stays behind at equal steps.
    array = np.array(sorted(pairs, key=lambda pair: pair[0]), dtype=np.float64)  # [K, 2]
    return Curve(steps=array[:, 0], values=array[:, 1])
