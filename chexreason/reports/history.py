"""A run's training history: Lightning's ``metrics.csv`` as curves, and the rewards compared between start and end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexreason.statistics.bootstrap import Interval, percentile_interval, resampled_sums
from chexreason.statistics.metrics import ratio


@dataclass(frozen=True)
class Curve:
    """The logged values of one column: ``steps`` and ``values`` are [K], ascending in step."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def read_history(path: Path) -> dict[str, Curve]:
    """Every numeric column of a ``metrics.csv`` that is not all blank; blank and non-finite cells are left out.

    Raises FileNotFoundError, and ValueError naming line and column of a cell that is no number.
    """
    table = pd.read_csv(path, float_precision="round_trip").drop(columns="epoch", errors="ignore")
    for name in table.select_dtypes(exclude="number"):
        wrong = table[name][pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()]
        place = f"{path}:{wrong.index[0] + 2}, column '{name}'"
        raise ValueError(f"{place}: '{wrong.iloc[0]}' is not a number; is this a metrics.csv of Lightning's CSVLogger?")
    # The sort is stable: what a resumed run logged later stays behind at equal steps.
    table = table.where(np.isfinite(table)).sort_values("step", kind="stable")
    logged = {name: table[["step", name]].dropna().to_numpy(np.float64) for name in table.columns.drop("step")}
    return {name: Curve(points[:, 0], points[:, 1]) for name, points in logged.items() if len(points)}  # [K, 2] each


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
    table = pd.concat([pd.read_csv(path, dtype={"study_id": str, "patient_id": str}) for path in paths])
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
