from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from chexreason.statistics.bootstrap import intervals, paired
from chexreason.statistics.ranking import (
    auroc,
    average_precision,
    brier,
    expected_calibration_error,
    ranking_replicates,
)
from chexreason.types import Prediction

LABELS = ("Edema", "Pneumonia")


def _study(n: int = 40, seed: int = 0, levels: int = 6) -> tuple[np.ndarray, list[Prediction], np.ndarray, np.ndarray]:
    """Tied scores, some labels not judged, two studies a patient."""
    rng = np.random.default_rng(seed)
    truth, mask = rng.random((n, 2)) < 0.4, rng.random((n, 2)) < 0.8
    values = np.clip(np.round((rng.random((n, 2)) + truth * 0.3) / 1.3 * levels) / levels, 0, 1)
    rows = []
    for i in range(n):
        judged = tuple(label for label, on in zip(LABELS, mask[i], strict=True) if on)
        true = tuple(label for label, on in zip(LABELS, truth[i] & mask[i], strict=True) if on)
        rows.append(Prediction(f"s{i}", f"p{i // 2}", "set", "", (), true, judged))
    return values, rows, truth, mask


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 3)), min_size=2, max_size=30).filter(
        lambda rows: len({row[1] for row in rows}) == 2
    )
)
@pytest.mark.slow
def test_weighted_measures_equal_scikit_learn(rows: list[tuple[int, bool, int]]) -> None:
    scores, truth = np.array([r[0] / 4 for r in rows]), np.array([r[1] for r in rows])
    weight = np.array([r[2] for r in rows], dtype=float)
    given_ = scores, truth, weight[None]
    assert auroc(*given_).item() == pytest.approx(roc_auc_score(truth, scores, sample_weight=weight))
    oracle = average_precision_score(truth, scores, sample_weight=weight)
    assert average_precision(*given_).item() == pytest.approx(oracle)
    assert brier(*given_).item() == pytest.approx(brier_score_loss(truth, scores, sample_weight=weight))


def test_calibration_error_equals_the_calibration_curve() -> None:
    rng = np.random.default_rng(2)
    scores, truth = rng.random(200), rng.random(200) < 0.3
    share, mean = calibration_curve(truth, scores, n_bins=10)
    sizes = np.bincount(np.searchsorted(np.linspace(0, 1, 11)[1:-1], scores), minlength=10)
    expected = (np.abs(share - mean) * sizes[sizes > 0]).sum() / 200
    found = expected_calibration_error(scores, truth, np.ones((1, 200)))
    assert found.item() == pytest.approx(expected)


def test_undefined_measures_are_nan() -> None:
    scores, weights = np.array([0.1, 0.9]), np.ones((1, 2))
    none, every = np.array([False, False]), np.array([True, True])
    assert math.isnan(auroc(scores, none, weights).item())
    assert math.isnan(auroc(scores, every, weights).item())
    assert math.isnan(average_precision(scores, none, weights).item())


@pytest.mark.slow
def test_replicates_equal_a_slow_loop_with_masks_and_patients() -> None:
    scores, rows, truth, mask = _study()
    sample = ranking_replicates(scores, rows, LABELS, n_resamples=20, seed=4)
    patients = sorted({p.patient_id for p in rows})
    picks = np.random.default_rng(4).integers(len(patients), size=(20, len(patients)))
    for r, chosen in enumerate(picks):
        studies = np.array([i for k in chosen for i, p in enumerate(rows) if p.patient_id == patients[k]])
        each = []
        for c, label in enumerate(LABELS):
            kept = studies[mask[studies, c]]
            each.append(roc_auc_score(truth[kept, c], scores[kept, c]))
            assert sample.draws[f"auroc/{label}"][r] == pytest.approx(each[-1])
            oracle = average_precision_score(truth[kept, c], scores[kept, c])
            assert sample.draws[f"average_precision/{label}"][r] == pytest.approx(oracle)
        assert sample.draws["macro_auroc"][r] == pytest.approx(np.mean(each))


def test_intervals_and_pairs_of_the_bootstrap_take_them() -> None:
    scores, rows, truth, mask = _study(200)
    sample = ranking_replicates(scores, rows, LABELS, n_resamples=200)
    found = intervals(sample)["auroc/Edema"]
    kept = mask[:, 0]
    assert found.value == pytest.approx(roc_auc_score(truth[kept, 0], scores[kept, 0]))
    assert found.low < found.value < found.high
    change = paired(sample, ranking_replicates(1 - scores, rows, LABELS, n_resamples=200))["macro_auroc"]
    assert change.value == pytest.approx(1 - 2 * sample.value["macro_auroc"])
    assert change.high < 0


def _drawn(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds and truth [n, 4] of rare labels, seen dimly, from one population."""
    rare = np.array([0.08, 0.1, 0.12, 0.2])
    truth = rng.random((n, 4)) < rare
    return rng.standard_normal((n, 4)) + 0.9 * truth + np.log(rare / (1 - rare)), truth


@pytest.mark.slow
def test_intervals_of_average_precision_cover_the_population() -> None:
    rng, labels = np.random.default_rng(1), ("Edema", "Pneumonia", "Fracture", "Nodule")
    scores, truth = _drawn(100_000, rng)
    every = np.ones((1, len(truth)))
    known = sum(average_precision(scores[:, i], truth[:, i], every).item() for i in range(4)) / 4
    covered, n_runs = 0, 100
    for run in range(n_runs):
        scores, truth = _drawn(200, rng)
        named = [tuple(label for label, on in zip(labels, row, strict=True) if on) for row in truth.tolist()]
        rows = [Prediction(f"s{i}", f"p{i}", "set", "", (), true, labels) for i, true in enumerate(named)]
        found = intervals(ranking_replicates(scores, rows, labels, kind="log_odds", n_resamples=100, seed=run))
        covered += found["macro_average_precision"].low <= known <= found["macro_average_precision"].high
    assert covered / n_runs >= 0.8  # of these runs the reflected interval covers 88, the percentile one 66


def test_calibration_error_has_no_interval_and_a_perfect_ranking_none_that_is_certain() -> None:
    scores, rows, truth, _ = _study()
    found = intervals(ranking_replicates(scores, rows, LABELS, n_resamples=50))
    for name in ("macro_ece", "ece/Edema"):
        assert found[name].value > 0
        assert math.isnan(found[name].low)
        assert math.isnan(found[name].high)
    assert all(0 <= found[name].low <= found[name].high <= 1 for name in found if "ece" not in name)
    perfect = intervals(ranking_replicates(truth.astype(float), rows, LABELS, n_resamples=50))
    assert perfect["macro_auroc"].value == 1
    assert math.isnan(perfect["macro_auroc"].low)


def test_a_label_without_positives_leaves_the_macro_average_to_the_others() -> None:
    scores, rows, _, _ = _study()
    rows = [Prediction(p.study_id, p.patient_id, "set", "", (), tuple(x for x in p.truth if x == "Edema"), p.labelled)
            for p in rows]  # fmt: skip
    sample = ranking_replicates(scores, rows, LABELS, n_resamples=5)
    assert math.isnan(sample.value["auroc/Pneumonia"])
    assert sample.value["macro_auroc"] == sample.value["auroc/Edema"]


def test_log_odds_rank_as_they_are_and_calibrate_by_their_sigmoid() -> None:
    scores, rows, _, _ = _study()
    odds = 200 * scores - 60  # the sigmoid of most of them is 0 or 1: ranked by it, they would tie
    sample, frequencies = (
        ranking_replicates(values, rows, LABELS, kind=kind, n_resamples=5)
        for values, kind in ((odds, "log_odds"), (scores, "frequency"))
    )
    assert sample.value["macro_auroc"] == frequencies.value["macro_auroc"]
    certain = ranking_replicates(1 / (1 + np.exp(-odds)), rows, LABELS, n_resamples=5)
    assert sample.value["macro_brier"] == certain.value["macro_brier"] != frequencies.value["macro_brier"]
    assert sample.value["macro_ece"] == certain.value["macro_ece"]


def test_scores_that_cannot_be_used_are_named() -> None:
    scores, rows, _, _ = _study()
    with pytest.raises(ValueError, match=r"shape \[39, 2\]; 40 studies, 2 labels expected"):
        ranking_replicates(scores[1:], rows, LABELS)
    scores[3, 1] = math.nan
    with pytest.raises(ValueError, match="1 scores are not finite: the first is nan of 'Pneumonia' in study 's3'"):
        ranking_replicates(scores, rows, LABELS)
    with pytest.raises(ValueError, match="unknown kind of scores 'logits'; known: log_odds, frequency"):
        ranking_replicates(np.zeros((40, 2)), rows, LABELS, kind="logits")
