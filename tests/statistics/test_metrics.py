from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from chexreason.statistics.metrics import averages, confusion, label_f1, precision_recall_f1

LABELS = ("a", "b", "c")


def _scores(pred: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    mask = np.ones_like(pred) if mask is None else mask
    return label_f1(confusion(pred, truth, mask), mask, np.zeros(len(pred), dtype=bool), LABELS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 15))
def test_equals_scikit_learn_with_zero_division_zero(seed: int, n: int) -> None:
    pred, truth = np.random.default_rng(seed).random((2, n, 3)) < 0.3
    scores = _scores(pred, truth)
    for average in ("macro", "micro"):
        expected = precision_recall_fscore_support(truth, pred, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert scores[f"{average}_{name}"] == pytest.approx(value, abs=1e-12)
    each = precision_recall_fscore_support(truth, pred, average=None, zero_division=0)
    assert np.allclose([scores[f"f1/{label}"] for label in LABELS], each[2])
    assert np.allclose(precision_recall_f1(confusion(pred, truth, np.ones_like(pred)).sum(axis=0)), each[:3])


def test_an_absent_label_costs_the_plain_mean_and_not_the_supported_one() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0]], dtype=bool)
    scores = _scores(truth, truth)
    assert scores["macro_f1"] == pytest.approx(2 / 3)
    assert scores["macro_f1_supported"] == scores["micro_f1"] == 1
    nothing = _scores(~truth & truth, ~truth & truth)
    assert math.isnan(nothing["macro_f1_supported"])
    assert nothing["macro_f1"] == 0


def test_inputs_stay_unchanged() -> None:
    arrays = np.random.default_rng(6).random((3, 12, 3)) < 0.4
    before = arrays.copy()
    _scores(*arrays)
    counts = confusion(*arrays).sum(axis=0)
    kept = counts.copy()
    averages(counts, np.array([True, False, True]))
    assert np.array_equal(before, arrays)
    assert np.array_equal(counts, kept)
