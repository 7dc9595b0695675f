from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexreason.reports.history import ema, fifths, read_history, read_rewards


def test_sparse_columns_become_curves(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/reward,val/loss,train/kl\n0,2,0.5,,\n0,1,0.25,,\n0,2,,1.5,nan\n")
    curves = read_history(path)
    assert set(curves) == {"train/reward", "val/loss"}
    assert curves["train/reward"].steps.tolist() == [1, 2]
    assert curves["train/reward"].values.tolist() == [0.25, 0.5]


@pytest.mark.parametrize("text", ["", "\n", "step\n", "step,val/loss\n"])
def test_a_run_that_logged_nothing_has_no_curves(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    assert read_history(path) == {}


def test_a_row_without_a_step_stands_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,val/loss\n1,0.5\n,0.25\n")
    curve = read_history(path)["val/loss"]
    assert (curve.steps.tolist(), curve.values.tolist()) == ([1, 3], [0.5, 0.25])


def test_a_cell_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n1,0.5\n2,high\n")
    with pytest.raises(ValueError, match=r"metrics.csv:3, column 'train/loss': 'high' is not a number"):
        read_history(path)


def test_moving_average_starts_at_the_first_value_and_keeps_constants() -> None:
    values = np.array([4.0, 0.0])
    assert ema(np.full(5, 3.0)) == pytest.approx(3.0)
    assert ema(values, decay=0.5).tolist() == pytest.approx([4.0, 4 / 3])
    assert values.tolist() == [4.0, 0.0]


def rewards_of(rise: float, noise: float = 0.1, n_patients: int = 40, passes: int = 5, seed: int = 1) -> pd.DataFrame:
    """``passes`` over the same patients, four rollouts each; every pass earns ``rise`` more."""
    rng = np.random.default_rng(seed)
    steps = np.arange(passes * n_patients) // (n_patients // 4)
    patients = np.tile(np.arange(n_patients), passes)
    level = rng.normal(size=n_patients)[patients]  # between-patient spread, ten times the noise
    values = level + rise * (np.arange(passes * n_patients) // n_patients) + rng.normal(0, noise, len(steps))
    return pd.DataFrame({"step": steps, "patient_id": patients, "reward": values})


@pytest.mark.slow
def test_fifths_tell_a_rise_from_noise() -> None:
    rising = fifths(rewards_of(rise=0.05), n_resamples=500)
    assert rising["difference"].low > 0
    assert rising["difference"].value == pytest.approx(rising["last_fifth"].value - rising["first_fifth"].value)
    flat = [fifths(rewards_of(rise=0.0, seed=seed), n_resamples=200)["difference"] for seed in range(60)]
    assert np.mean([found.low < 0 < found.high for found in flat]) >= 0.85  # nominally 0.95


def test_other_patients_in_the_last_fifth_widen_the_interval() -> None:
    same = rewards_of(rise=0.05)
    other = same.assign(patient_id=np.arange(len(same)))  # the same rewards, each of another patient
    wide, narrow = (fifths(r, n_resamples=500)["difference"] for r in (other, same))
    assert wide.value == narrow.value
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.low < 0


def test_too_few_patients_give_no_interval() -> None:
    one = pd.DataFrame({"step": np.arange(10), "patient_id": 0, "reward": np.arange(10.0)})
    found = fifths(one, n_resamples=50)["difference"]
    assert found.value == 8
    assert math.isnan(found.low)


def test_a_repeated_rollout_counts_once_and_ranks_are_joined(tmp_path: Path) -> None:
    head = "step,study_id,patient_id,reward\n"
    (tmp_path / "rewards-rank0.csv").write_text(head + "0,a,p1,0.1\n1,b,p2,0.2\n1,b,p2,0.9\n")
    (tmp_path / "rewards-rank1.csv").write_text(head + '0,"c,x",p3,0.3\n')
    rewards = read_rewards(tmp_path)
    assert rewards is not None
    assert rewards["step"].tolist() == [0, 0, 1]
    assert rewards["reward"].tolist() == [0.1, 0.3, 0.9]
    assert rewards["patient_id"].tolist() == ["p1", "p3", "p2"]
    assert read_rewards(tmp_path / "none") is None
