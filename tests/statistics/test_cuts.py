"""Calibration and cuts against oracles and brute force; what cross-fitting shows of label noise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from chexreason.statistics.bootstrap import difference, percentile_interval, seed_mean, wilson
from chexreason.statistics.cuts import Target, attained, calibrate, cross_fitted, fit_cuts, folds, logistic, platt
from chexreason.statistics.decisions import decided, decision_replicates
from chexreason.statistics.metrics import confusion, jaccard_overlap
from chexreason.types import Prediction

LABELS = ("Edema", "Fracture", "Pneumonia", "Support Devices")


def _scored(n: int = 400, seed: int = 0, prevalence=(0.4, 0.3, 0.2, 0.5)) -> tuple[np.ndarray, ...]:
    """Scores that know the truth dimly, truth, a mask with gaps, and two studies a patient."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, len(prevalence))) < np.array(prevalence)
    return rng.standard_normal(truth.shape) + 1.5 * truth, truth, rng.random(truth.shape) < 0.9, [
        f"p{i // 2}" for i in range(n)
    ]  # fmt: skip


def _cut(target: Target, scored: tuple, **options) -> np.ndarray:
    return fit_cuts(*scored[:3], target, **options)


def test_logistic_equals_scikit_learn_and_stays_finite_where_it_separates() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.standard_normal((300, 2)), np.ones(300)])
    y = rng.random(300) < 1 / (1 + np.exp(-(x @ [1.0, -2.0, 0.5])))
    oracle = LogisticRegression(C=1 / 0.5, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0]
    np.testing.assert_allclose(logistic(x, y.astype(float), 0.5), oracle, atol=1e-5)
    for scale in (1e-6, 1.0, 1e6):
        apart = scale * np.linspace(-1, 1, 40)[:, None]
        slopes, biases = calibrate(apart, apart > 0, np.ones_like(apart, dtype=bool))
        p = 1 / (1 + np.exp(-(slopes * apart + biases)))
        assert np.isfinite([slopes, biases]).all()
        assert p[0] < 0.1 < 0.9 < p[-1]


def test_calibration_finds_the_probabilities_again() -> None:
    rng = np.random.default_rng(1)
    odds = rng.standard_normal((20_000, 4)) * 1.5 - 1
    truth, mask = rng.random(odds.shape) < 1 / (1 + np.exp(-odds)), np.ones(odds.shape, dtype=bool)
    shrink, shift = np.array([0.5, 2.0, 4.0, 1.0]), np.array([3.0, -2.0, 0.0, 1.0])
    slopes, biases = calibrate((odds - shift) / shrink, truth, mask)
    np.testing.assert_allclose([slopes, biases], [shrink, shift], rtol=0.05, atol=0.05)
    oracle = LogisticRegression(C=1e6, tol=1e-10).fit((odds - shift)[:, 2:3] / shrink[2], truth[:, 2])
    assert [slopes[2], biases[2]] == pytest.approx([oracle.coef_.item(), oracle.intercept_.item()], abs=2e-3)
    slopes, biases = calibrate((odds - shift) / 3, truth, mask, "temperature")
    assert len({*slopes.round(12)}) == 1
    np.testing.assert_allclose([slopes, biases], [[3] * 4, shift], atol=0.12)


def test_one_labels_calibration_is_found_again_and_is_finite_on_any_data() -> None:
    rng = np.random.default_rng(0)
    scores = 3 * rng.normal(size=20_000) + 1
    truth = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * scores - 1.0)))
    assert platt(scores, truth) == pytest.approx((0.5, -1.0), abs=0.05)
    slope, bias = platt(scores, np.zeros(20_000, dtype=bool))
    p = 1 / (1 + np.exp(-(slope * scores + bias)))
    assert p == pytest.approx(1 / 20_002, rel=0.02)  # Platt's target where nothing is positive
    slope, _ = platt(np.arange(20.0), np.arange(20) >= 10)  # separable
    assert 0 < slope < 10


def test_scores_that_say_nothing_or_the_contrary_are_calibrated_to_the_prevalence() -> None:
    scores, truth, mask, _ = _scored(prevalence=(0.4, 0.3, 0.0, 0.5))
    scores[:, 0] = 3.0
    scores[:, 1] *= -1
    slopes, biases = calibrate(scores, truth, mask)
    assert slopes[1] == 0
    for i in (0, 1, 2):
        share = (truth & mask)[:, i].sum() / mask[:, i].sum()
        p = 1 / (1 + np.exp(-(slopes[i] * scores[mask[:, i], i] + biases[i])))
        assert p.mean() == pytest.approx(share, abs=0.02)
    with pytest.raises(ValueError, match="calibration=isotonic: choose one of platt, temperature"):
        calibrate(scores, truth, mask, "isotonic")


def _goodness(target: Target, named: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """What the target wants of one label: first as much of what must be kept as is asked, then the most of the rest."""
    hits, alarms = weights @ (named & truth), weights @ (named & ~truth)
    found, wrong = weights @ truth, weights @ ~truth
    if target.name in ("sensitivity", "specificity"):
        shares = [hits / found, 1 - alarms / wrong]
        best, kept = shares if target.name == "sensitivity" else shares[::-1]
        return float(kept >= target.at), best
    return 0.0, {
        "f1": 2 * hits / (hits + alarms + found),
        "cost": -(target.at or 0) * (found - hits) - alarms,
        "rate": -abs(hits + alarms - (target.at or 0) * weights.sum()),
    }[target.name]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [("sensitivity", 0.6), ("sensitivity", 0.99), ("specificity", 0.7), ("cost", 3.0), ("rate", 0.3), ("f1", None)]
    ),
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(1, 3)), min_size=4, max_size=25).filter(
        lambda rows: len({row[1] for row in rows}) == 2
    ),
)
def test_a_cut_is_the_best_of_all(target: tuple, rows: list[tuple[int, bool, int]]) -> None:
    target = Target(*target)
    scores, truth, weights = np.array(rows, dtype=float).T
    truth = truth > 0
    column = (scores[:, None], truth[:, None], np.ones((len(rows), 1), dtype=bool))
    cut = fit_cuts(*column, target, min_positives=1, weights=weights).item()
    tried = [-1.0, *(np.unique(scores)[:-1] + 0.5), 99.0]
    best = max(_goodness(target, scores >= t, truth, weights) for t in tried)
    assert _goodness(target, scores >= cut, truth, weights) == pytest.approx(best)
    assert np.isfinite(cut)


def test_a_target_is_kept_where_it_was_fitted_and_its_interval_says_what_it_would_take() -> None:
    scored = _scored()
    for name, kept in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        target = Target(name, 0.8)
        found = attained(scored[0] >= _cut(target, scored), *scored[1:])
        for i, figure in enumerate(found[kept]):
            assert figure.low < 0.8 <= figure.value
            of = scored[2][:, i] & (scored[1][:, i] == (kept == "sensitivity"))
            units = len({p for p, on in zip(scored[3], of, strict=True) if on})
            assert figure.low == pytest.approx(wilson(figure.value * units, units)[0])
    n = Target("sensitivity", 0.95).needed()
    assert wilson(n, n)[0] >= 0.95 > wilson(n - 1, n - 1)[0]
    assert n == 73


def test_the_overlap_is_at_a_top_from_which_no_cut_of_one_label_leads_up() -> None:
    scores, truth, mask, _ = scored = _scored(120)
    cuts = _cut(Target("jaccard"), scored)

    def overlap(at: np.ndarray) -> float:
        return float(jaccard_overlap(confusion(scores >= at, truth, mask)).mean())

    assert overlap(cuts) >= overlap(_cut(Target("f1"), scored))
    for i, level in [(k, s) for k in range(4) for s in scores[:, k]]:
        moved = cuts.copy()
        moved[i] = level
        assert overlap(moved) <= overlap(cuts) + 1e-12


def test_rare_labels_share_a_cut_drawn_towards_the_others() -> None:
    scores, truth, mask, _ = _scored(prevalence=(0.4, 0.02, 0.0, 0.3))
    scores[:, 1:3] = 10 * scores[:, 1:3] + 5  # of another scale: what they share is in standard deviations
    target = Target("f1")

    def z(cuts: np.ndarray) -> np.ndarray:
        return np.array(
            [(c - scores[m, i].mean()) / scores[m, i].std() for i, (c, m) in enumerate(zip(cuts, mask.T, strict=True))]
        )

    free = z(fit_cuts(scores, truth, mask, target, min_positives=1))
    shared = z(fit_cuts(scores, truth, mask, target, min_positives=30))
    much = z(fit_cuts(scores, truth, mask, target, min_positives=90))
    assert shared[1] == pytest.approx(shared[2])
    assert shared[[0, 3]].tolist() == free[[0, 3]].tolist()
    middle = np.median(free[[0, 3]])
    assert abs(much[1] - middle) < abs(shared[1] - middle)
    with pytest.raises(ValueError, match="no label has a positive"):
        fit_cuts(scores, truth & False, mask, target)


@pytest.mark.parametrize(("name", "at", "words"), [
    ("accuracy", 0.9, "target=accuracy: choose one of sensitivity, specificity"),
    ("sensitivity", 1.0, "at=1.0: for target=sensitivity it is the specificity .* between 0 and 1"),
    ("rate", 0.0, "at=0.0"), ("cost", None, "a number above 0, such as 5"), ("sensitivity", float("nan"), "at=nan"),
])  # fmt: skip
def test_a_target_that_no_cut_can_meet_is_refused(name: str, at: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Target(name, at)
    assert Target("f1", 0.9).at is None


def test_no_study_is_cut_by_its_own_patient() -> None:
    scores, truth, mask, patients = _scored(60)
    seen, whose = [], {row.tobytes(): patient for row, patient in zip(scores, patients, strict=True)}

    def rule(s: np.ndarray, t: np.ndarray, m: np.ndarray) -> np.ndarray:
        seen.append({whose[row.tobytes()] for row in s})
        assert len(s) == len(t) == len(m) == 2 * len(seen[-1])
        return np.zeros(4)

    named = cross_fitted(rule, scores, truth, mask, patients, n_repeats=2)
    assert (named == (scores >= 0)).all()
    dealt = [fold for _ in range(2) for fold in folds(patients, 5, np.random.default_rng(0))]
    assert all(sum(fold) == 12 for fold in dealt)
    for names in seen:
        assert len(names) == 24
    with pytest.raises(ValueError, match="4 patients cannot be dealt into 5 folds"):
        cross_fitted(rule, scores[:8], truth[:8], mask[:8], patients[:8])


def test_label_noise_gains_in_sample_and_nothing_cross_fitted() -> None:
    """Ten labels at prevalence .5, scores that know nothing: sensitivity + specificity is 1 for whatever is named."""
    rng, names = np.random.default_rng(3), tuple(f"L{i}" for i in range(10))
    truth, scores = rng.random((120, 10)) < 0.5, rng.standard_normal((120, 10))
    mask, patients = np.ones_like(truth), [f"p{i}" for i in range(120)]
    true = [tuple(x for x, on in zip(names, t, strict=True) if on) for t in truth]
    rows = [Prediction(f"s{i}", f"p{i}", "set", "", names, t, names) for i, t in enumerate(true)]
    rule = partial(fit_cuts, target=Target("cost", 1.0))
    own = decision_replicates(rows, names, 400)
    fitted = scores >= rule(scores, truth, mask)
    gains = []
    for dealings in ([fitted], cross_fitted(rule, scores, truth, mask, patients)):
        cut = seed_mean([decision_replicates(decided(rows, named, names), names, 400) for named in dealings])
        gain = difference(own, cut)
        draws = gain.draws["sensitivity"] + gain.draws["specificity"]
        gains.append(percentile_interval(gain.value["sensitivity"] + gain.value["specificity"], draws, 120))
    assert gains[0].low > 0.05
    assert gains[1].low < 0 < gains[1].high
