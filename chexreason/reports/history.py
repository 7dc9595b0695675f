"""A run's training history: Lightning's ``metrics.csv`` as curves, and the rewards compared between start and end."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexreason.files import sound_lines
from chexreason.statistics.bootstrap import Interval, percentile_interval, resampled_sums
from chexreason.statistics.metrics import ratio


@dataclass(frozen=True)
class Curve:
    """The logged values of one column: ``steps`` and ``values`` are [K], ascending in step."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def read_history(path: Path) -> dict[str, Curve]:
    """Every numeric column of a ``metrics.csv`` that is not all blank; blank and non-finite cells are left out.

    Damaged lines are too. Raises FileNotFoundError, and ValueError naming line and column of a cell that is no number.
    """
    rows = list(csv.DictReader(sound_lines(path)))
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


def read_rewards(folder: Path) -> pd.DataFrame | None:
    """What ``RewardLog`` wrote into a run's folder, all ranks together; None where a run logged no reward.

    The mean ``reward`` of each ``study_id``, of ``patient_id``, at each ``step``. A rollout that a resumed run repeated
    counts once, as it was repeated.
    """
    paths = sorted(folder.glob("rewards-rank*.csv"))
    if not paths:
        return None
    texts = ("\n".join(sound_lines(path, numbers=("step", "reward"))) for path in paths)
    names = {"study_id": str, "patient_id": str}
    tables = [pd.read_csv(io.StringIO(text), dtype=names) for text in texts if text]
    if not tables:
        return None
    table = pd.concat(tables)
    return table.drop_duplicates(["step", "study_id"], keep="last").sort_values(["step", "study_id"])


def ends(rewards: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows [K] belong to the first fifth of the rollouts, and which to the last."""
    steps = np.unique(rewards["step"])
    size = max(1, len(steps) // 5)
    return np.isin(rewards["step"], steps[:size]), np.isin(rewards["step"], steps[-size:])


def fifths(rewards: pd.DataFrame, n_resamples: int = 10_000, seed: int = 0) -> dict[str, Interval]:
    """Mean reward of the first and of the last fifth of the rollouts and their difference, resampling patients.

    A patient is drawn with all its rollouts, so studies seen in both fifths are compared with themselves. The last
    fifth may differ from the first by its studies, not by learning, where a run passes over them once; the interval
    includes that. Bounds are NaN with fewer than two patients a fifth.
    """
    parts, patients = ends(rewards), rewards["patient_id"].factorize(sort=True)[0]
    values, n_patients = rewards["reward"].to_numpy(np.float64), int(patients.max()) + 1
    totals = np.stack(
        [np.bincount(patients[part], weight, n_patients) for part in parts for weight in (values[part], None)],
        axis=1,
        dtype=np.float64,
    )  # [P, 4]: sum and count of the first fifth, of the last
    sums = resampled_sums(totals, n_resamples, seed)  # [1 + R, 4]
    first, last = ratio(sums[:, 0], sums[:, 1]), ratio(sums[:, 2], sums[:, 3])  # NaN: a resample without such a patient
    found = {"first_fifth": first, "last_fifth": last, "difference": last - first}
    fewest = min(len(np.unique(patients[part])) for part in parts)
    return {name: percentile_interval(float(each[0]), each[1:], fewest) for name, each in found.items()}


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
