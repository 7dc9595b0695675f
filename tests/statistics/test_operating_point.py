from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.statistics.bootstrap import replicates
from chexreason.statistics.operating_point import ALWAYS, NEVER, best_threshold, refit, split_change
from chexreason.statistics.predictions import counts
from chexreason.types import Prediction

LABELS = ("Edema", "Fracture")


def _set(n: int = 300, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, list[Prediction]]:
    """Scores that rank by truth plus noise, with the answers of a cut at 0.5; a third of the labels are positive."""
    truth = np.random.default_rng(1).random((n, 2)) < 0.33
    scores = truth + noise * np.random.default_rng(seed).standard_normal((n, 2))
    return scores, _answers(truth, scores > 0.5)


def _answers(truth: np.ndarray, given_: np.ndarray) -> list[Prediction]:
    def named(row: list[bool]) -> tuple[str, ...]:
        return tuple(label for label, on in zip(LABELS, row, strict=True) if on)

    pairs = zip(truth.tolist(), given_.tolist(), strict=True)
    return [Prediction(f"s{i}", f"p{i // 2}", "set", "", named(b), named(a), LABELS) for i, (a, b) in enumerate(pairs)]


def _f1(truth: np.ndarray, given_: np.ndarray) -> float:
    return float(2 * (truth & given_).sum() / max(truth.sum() + given_.sum(), 1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=15))
def test_the_threshold_is_the_best_of_all(rows: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([r[0] / 5 for r in rows]), np.array([r[1] for r in rows])
    levels = sorted({r[0] / 5 for r in rows})
    cuts = [ALWAYS, *((a + b) / 2 for a, b in pairwise(levels)), NEVER]
    found = best_threshold(scores, truth)
    assert _f1(truth, scores >= found) == pytest.approx(max(_f1(truth, scores >= cut) for cut in cuts))
    if not truth.any():
        assert found == NEVER


def test_another_operating_point_of_the_same_scores_is_no_change_of_ranking() -> None:
    scores, rows = _set()
    _, truth, _ = counts(rows, LABELS)
    arms = (_answers(truth, scores > 1.2), rows)
    own = [replicates(answers, LABELS, 200) for answers in arms]
    total, ranking, point = split_change(own, [refit(scores, answers, LABELS, n_resamples=200) for answers in arms])
    assert total.low > 0.05
    assert ranking.value == ranking.low == ranking.high == 0
    assert point == total


def test_better_sight_at_a_fitted_operating_point_is_a_change_of_ranking() -> None:
    blurred, sharp = _set(noise=0.8), _set(noise=0.25)
    own = [replicates(rows, LABELS, 200) for _, rows in (blurred, sharp)]
    total, ranking, point = split_change(own, [refit(*arm, LABELS, n_resamples=200) for arm in (blurred, sharp)])
    assert ranking.low > 0.05
    assert total.value == pytest.approx(ranking.value + point.value)
    assert abs(point.value) < 0.5 * ranking.value


def test_a_monotone_change_of_the_scores_changes_no_cut() -> None:
    scores, rows = _set(100)
    a, b = (refit(values, rows, LABELS, n_resamples=5) for values in (scores, scores * 3 - 7))
    assert a.value == b.value


def test_no_study_is_cut_at_a_threshold_fitted_on_its_patient() -> None:
    """The only positive patient's fold has thresholds of patients without a positive: its label is never given."""
    truth = np.zeros((10, 2), dtype=bool)
    truth[:2] = True  # two studies of patient p0
    refitted = refit(truth.astype(float), _answers(truth, truth), LABELS, fit_patients=None, n_resamples=5)
    assert refitted.value["macro_f1"] == 0


def test_scores_that_mean_nothing_do_not_beat_answering_every_label() -> None:
    truth = np.random.default_rng(1).random((200, 2)) < 0.33
    scores = np.random.default_rng(2).random((200, 2))
    refitted = refit(scores, _answers(truth, truth), LABELS, n_resamples=5)
    p = truth.mean(axis=0)
    assert refitted.value["macro_f1"] <= float((2 * p / (1 + p)).mean()) + 0.03


def test_an_unreadable_answer_still_has_scores() -> None:
    scores, rows = _set(60)
    broken = [replace(p, predicted=(), broken="no_solution") for p in rows]
    a, b = (refit(scores, answers, LABELS, n_resamples=5) for answers in (broken, rows))
    assert a.value["fail_rate"] == 0
    assert a.value == b.value


def test_other_studies_and_too_few_patients_are_refused() -> None:
    scores, rows = _set(60)
    refitted = [refit(scores[k:], rows[k:], LABELS, n_resamples=5) for k in (0, 2)]
    with pytest.raises(ValueError, match="different studies"):
        split_change(refitted, refitted)
    with pytest.raises(ValueError, match="2 patients cannot be dealt into 5 folds"):
        refit(scores[:4], rows[:4], LABELS)
