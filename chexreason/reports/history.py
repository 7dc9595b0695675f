"""A run's training history: Lightning's ``metrics.csv`` as curves, and the rewards compared between start and end."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexreason.statistics.bootstrap import Interval, resampled_sums


@dataclass(frozen=True)
class Curve:
    """The logged values of one column: ``steps`` and ``values`` are [K], ascending in step."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def read_history(path: Path) -> dict[str, Curve]:
    """Every numeric column of a ``metrics.csv`` that is not all blank; blank and non-finite cells are left out.

    Raises FileNotFoundError, and ValueError naming line and column of a cell that is no number.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            logged = {k: _number(v, f"{path}:{line}, column '{k}'") for k, v in row.items() if k not in ("epoch", None)}
            step = logged.pop("step", math.nan)
            for name, value in logged.items():
                if math.isfinite(value):
                    points.setdefault(name, []).append((step if math.isfinite(step) else float(line), value))
    # The sort is stable: what a resumed run logged later stays behind at equal steps.
    arrays = {name: np.array(sorted(pairs, key=itemgetter(0))) for name, pairs in points.items()}  # [K, 2] each
    return {name: Curve(array[:, 0], array[:, 1]) for name, array in arrays.items()}


def ema(values: NDArray[np.float64], decay: float = 0.95) -> NDArray[np.float64]:
    """Exponential moving average [K] of [K] with bias correction, so that it starts at the first value."""
    smooth, total, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        smooth[i] = total / weight
    return smooth


@dataclass(frozen=True)
class Rewards:
    """The mean reward of each study at each rollout: ``steps`` [K], ``patients`` [K] (numbered) and ``values`` [K]."""

    steps: NDArray[np.int64]
    patients: NDArray[np.int64]
    values: NDArray[np.float64]

    def ends(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows [K] belong to the first fifth of the rollouts, and which to the last."""
        steps = np.unique(self.steps)
        size = max(1, len(steps) // 5)
        return np.isin(self.steps, steps[:size]), np.isin(self.steps, steps[-size:])


def read_rewards(folder: Path) -> Rewards | None:
    """What ``RewardLog`` wrote into a run's folder, all ranks together; None where a run logged no reward.

    A rollout that a resumed run repeated counts once, as it was repeated.
    """
    paths = sorted(folder.glob("rewards-rank*.csv"))
    if not paths:
        return None
    table = pd.concat([pd.read_csv(path, dtype={"study_id": str, "patient_id": str}) for path in paths])
    table = table.drop_duplicates(["step", "study_id"], keep="last").sort_values(["step", "study_id"])
    patients = table["patient_id"].factorize(sort=True)[0]
    return Rewards(table["step"].to_numpy(np.int64), patients, table["reward"].to_numpy(np.float64))


def fifths(rewards: Rewards, n_resamples: int = 10_000, seed: int = 0) -> dict[str, Interval]:
    """Mean reward of the first and of the last fifth of the rollouts and their difference, resampling patients.

    A patient is drawn with all its rollouts, so studies seen in both fifths are compared with themselves. The last
    fifth may differ from the first by its studies, not by learning, where a run passes over them once; the interval
    includes that. Bounds are NaN with fewer than two patients a fifth.
    """
    parts = rewards.ends()
    n_patients = int(rewards.patients.max()) + 1
    totals = np.stack(
        [
            np.bincount(rewards.patients[part], weight, n_patients)
            for part in parts
            for weight in (rewards.values[part], None)
        ],
        axis=1,
        dtype=np.float64,
    )  # [P, 4]: sum and count of the first fifth, of the last
    sums = resampled_sums(totals, n_resamples, seed)  # [1 + R, 4]
    enough = min(len(np.unique(rewards.patients[part])) for part in parts) > 1
    first, last = (_means(sums[:, i : i + 2]) for i in (0, 2))
    found = {"first_fifth": first, "last_fifth": last, "difference": last - first}
    return {name: _interval(values[0], values[1:], enough) for name, values in found.items()}


def _means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over count [R] of [R, 2]; NaN where a resample holds no patient of the fifth."""
    out: NDArray[np.float64] = np.full(len(sums), np.nan)
    return np.divide(sums[:, 0], sums[:, 1], out=out, where=sums[:, 1] > 0)


def _interval(value: float, draws: NDArray[np.float64], enough: bool) -> Interval:
    low, high = np.nanquantile(draws, [0.025, 0.975]) if enough else (math.nan, math.nan)
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
