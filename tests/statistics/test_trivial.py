from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14, CHEXPERT_TEST
from chexreason.statistics.trivial import best_constant_answer, trivial_rows


def _chexpert_truth() -> np.ndarray:
    return np.stack([np.arange(500) < CHEXPERT_TEST[label] for label in CHEXPERT14], axis=1)  # [500, 14]


def test_all_labels_on_the_chexpert_test_set_scores_0_291() -> None:
    truth = _chexpert_truth()
    rows = trivial_rows(truth, np.ones_like(truth), CHEXPERT14.labels, {})
    assert list(rows) == ["nothing", "all_labels"]
    assert rows["all_labels"]["macro_f1"] == pytest.approx(0.291, abs=5e-4)
    assert rows["nothing"]["macro_f1"] == 0
    mask = truth | (np.arange(14) > 0)  # of the first label only the positives are judged
    assert trivial_rows(truth, mask, CHEXPERT14.labels, {})["all_labels"]["f1/Atelectasis"] == 1
    p = CHEXPERT_TEST["Edema"] / 500
    assert rows["all_labels"]["f1/Edema"] == pytest.approx(2 * p / (1 + p))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 20), min_size=1))
def test_best_constant_beats_every_other_set(positives: dict[str, int]) -> None:
    prevalence = {label: count / 20 for label, count in positives.items()}

    def micro_f1(chosen: tuple[str, ...]) -> float:
        hit = sum(prevalence[label] for label in chosen)
        return 2 * hit / (len(chosen) + sum(prevalence.values())) if chosen else 0.0

    every = [subset for size in range(len(prevalence) + 1) for subset in combinations(prevalence, size)]
    assert micro_f1(best_constant_answer(prevalence)) == pytest.approx(max(map(micro_f1, every)))


def test_the_constant_and_the_prior_come_from_training_not_from_the_scored_set() -> None:
    truth = np.array([[True, False]] * 10)
    rows = trivial_rows(truth, np.ones_like(truth), ("a", "b"), {"a": 0.0, "b": 1.0})
    assert rows["best_constant"]["f1/a"] == 0
    assert rows["prior"]["f1/a"] == 0
    assert rows["all_labels"]["f1/a"] == 1


def test_prior_is_the_expected_score() -> None:
    truth = np.random.default_rng(0).random((2_000, 1)) < 0.4
    row = trivial_rows(truth, np.ones_like(truth), ("a",), {"a": 0.4})["prior"]
    assert row["f1/a"] == pytest.approx(0.4, abs=0.02)  # F1 of two independent draws of one rate is that rate


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("n", [1, 37, 900])
def test_the_draws_of_the_prior_are_those_of_torch(seed: int, n: int) -> None:
    """Tables of before statistics left torch keep their figures: micro-F1 of every draw comes from equal counts."""
    prevalence = {"a": 0.3, "b": 0.6, "c": 0.05}
    truth = np.random.default_rng(n).random((n, 3)) < 0.3
    noise = torch.rand((20, n, 3), generator=torch.Generator().manual_seed(seed))
    pred = (noise < torch.tensor(list(prevalence.values()))).numpy()  # [D, N, L]
    tp, wrong = (pred & truth).sum(axis=(1, 2)), (pred ^ truth).sum(axis=(1, 2))
    row = trivial_rows(truth, np.ones_like(truth), "abc", prevalence, n_draws=20, seed=seed)["prior"]
    assert row["micro_f1"] == pytest.approx(np.mean(2 * tp / np.maximum(2 * tp + wrong, 1)), abs=1e-12)
