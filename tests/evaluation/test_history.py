from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from chexreason.evaluation.history import Curve, ema, fifths, read_history


def test_sparse_columns_become_curves(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/reward,val/loss,train/kl\n0,2,0.5,,\n0,1,0.25,,\n0,2,,1.5,nan\n")
    curves = read_history(path)
    assert set(curves) == {"train/reward", "val/loss"}
    assert curves["train/reward"].steps.tolist() == [1, 2]
    assert curves["train/reward"].values.tolist() == [0.25, 0.5]


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


def test_fifths_tell_a_rise_from_noise() -> None:
    noise = np.random.default_rng(0).normal(size=200)
    rising = fifths(Curve(np.arange(200.0), noise + np.linspace(0, 5, 200)), n_resamples=500)
    assert rising["difference"].low > 0
    assert rising["difference"].value == pytest.approx(rising["last_fifth"].value - rising["first_fifth"].value)
    flat = fifths(Curve(np.arange(200.0), noise), n_resamples=500)["difference"]
    assert flat.low < 0 < flat.high


def test_too_few_steps_give_no_interval() -> None:
    found = fifths(Curve(np.arange(4.0), np.arange(4.0)))["difference"]
    assert found.value == 3
    assert math.isnan(found.low)
