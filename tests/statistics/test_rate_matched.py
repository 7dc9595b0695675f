"""The split of a change between two arms, against a slow loop, on planted faults, and with ties."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.statistics.bootstrap import paired, replicates
from chexreason.statistics.predictions import counts
from chexreason.statistics.rate_matched import CHANGE_PARTS, split_change
from chexreason.types import Prediction

LABELS = CHEXPERT14.labels
ARM = tuple[np.ndarray, list[Prediction]]


def _arm(scores: np.ndarray, named: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> ARM:
    """Two studies a patient."""
    labels = LABELS[: truth.shape[1]]
    mask = np.ones_like(truth) if mask is None else mask
    rows = [
        Prediction(f"s{i}", f"p{i // 2}", "set", "", *(tuple(x for x, on in zip(labels, v[i], strict=True) if on)
                   for v in (named & mask, truth & mask, mask)))
        for i in range(len(truth))
    ]  # fmt: skip
    return scores, rows


def _films(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds and truth [n, 14] of labels with prevalences from .05 to .5, seen well."""
    rng = np.random.default_rng(seed)
    prevalence = np.linspace(0.05, 0.5, len(LABELS))
    truth = rng.random((n, len(LABELS))) < prevalence
    return np.log(prevalence / (1 - prevalence)) + 2 * truth + rng.standard_normal(truth.shape) - 1, truth


def _answers(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What decoding makes of scores: the label is named where they are above 0, but for a little noise."""
    return scores + 0.1 * rng.standard_normal(scores.shape) > 0


def _blurred(scores: np.ndarray, blur: float, rng: np.random.Generator) -> np.ndarray:
    """The same values, handed to the studies in the order of blurred ones."""
    order = (scores + blur * rng.standard_normal(scores.shape)).argsort(axis=0)
    moved = np.empty_like(scores)
    np.put_along_axis(moved, order, np.sort(scores, axis=0), axis=0)
    return moved


@pytest.mark.parametrize(
    ("kind", "size"),
    [*(("operating_point", bias) for bias in (-1.5, -0.8, 0.8, 1.5)), *(("ranking", blur) for blur in (1, 1.5, 2.5))],
)
def test_a_planted_fault_is_a_change_of_its_kind(kind: str, size: float) -> None:
    """A bias on the log-odds of every label; or blurred films."""
    shares = []
    for seed in range(10):
        rng, (scores, truth) = np.random.default_rng([seed, 1]), _films(seed)
        faulty = scores + size if kind == "operating_point" else _blurred(scores, size, rng)
        change = split_change(*(_arm(s, _answers(s, rng), truth) for s in (scores, faulty)), LABELS, 5).value
        shares.append(change[kind] / change["total"])
    assert sum(0.8 <= share <= 1.25 for share in shares) >= 9, shares


def _slow_f1(scores: np.ndarray, n_named: float, truth: np.ndarray, weights: np.ndarray) -> float:
    """F1 of the n highest scores of studies taken one by one, each as often as drawn; ties share what is left."""
    found, left = 0.0, n_named
    for level in sorted(set(scores.tolist()), reverse=True):
        here = weights[scores == level].sum()
        part = min(1.0, left / here) if here else 0.0
        found += part * weights[(scores == level) & truth].sum()
        left -= part * here
    assert abs(left) < 1e-9  # the rate is met exactly
    below = n_named + weights[truth].sum()
    return 2 * found / below if below else 0.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_every_resample_equals_a_slow_loop_with_ties_masks_and_patients(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    truth, mask = rng.random((14, 2)) < 0.4, rng.random((14, 2)) < 0.8
    mask[:, 0] |= ~mask.any(axis=1)
    arms = [
        _arm(rng.integers(levels, size=(14, 2)).astype(float), rng.random((14, 2)) < p, truth, mask) for p in (0.3, 0.6)
    ]
    labels = LABELS[:2]
    found = split_change(*arms, labels, 4, seed)
    own = paired(*(replicates(rows, labels, 4, seed) for _, rows in arms))
    assert found.percentiles("total").low == pytest.approx(own["macro_f1"].low, abs=1e-12)
    picks = np.random.default_rng(seed).integers(7, size=(4, 7))
    for r, chosen in [(None, np.arange(7)), *enumerate(picks)]:
        owner = np.unique([f"p{i // 2}" for i in range(14)], return_inverse=True)[1]
        weights = np.bincount(chosen, minlength=7)[owner].astype(float)
        cut = np.zeros((2, 2, 2))  # [arm, rates of, label]
        for a, b, i in np.ndindex(2, 2, 2):
            on = mask[:, i]
            n = weights[on] @ counts(arms[b][1], labels)[0][on, i]
            cut[a, b, i] = _slow_f1(arms[a][0][on, i], n, (truth & mask)[on, i], weights[on])
        (aa, ab), (ba, bb) = cut.mean(axis=2)
        parts = {name: found.value[name] if r is None else found.draws[name][r] for name in CHANGE_PARTS}
        assert parts["operating_point"] == pytest.approx((ab - aa + bb - ba) / 2, abs=1e-12)
        assert parts["ranking"] == pytest.approx((ba - aa + bb - ab) / 2, abs=1e-12)
        assert sum(parts[name] for name in CHANGE_PARTS[1:]) == pytest.approx(parts["total"], abs=1e-12)


def test_arms_that_swap_places_swap_the_sign_and_no_true_label_sets_a_cut() -> None:
    rng, (scores, truth) = np.random.default_rng(0), _films(0, 60)
    a, b = _arm(scores, scores > 0, truth), _arm(rng.permutation(scores), scores > 1, truth)
    there, back = split_change(a, b, LABELS, 5), split_change(b, a, LABELS, 5)
    for part in CHANGE_PARTS:
        assert there.value[part] == pytest.approx(-back.value[part], abs=1e-12)
        np.testing.assert_allclose(there.draws[part], -back.draws[part], atol=1e-12)
    exact = split_change(a, _arm(3 * scores - 7, scores > 1, truth), LABELS, 5)  # the same order, other answers
    assert exact.value["ranking"] == exact.value["residue"] == 0
    assert exact.value["operating_point"] == exact.value["total"] != 0
    for values in (scores, -scores):  # whatever the labels are, calling all or none leaves nothing to rank
        none, every = _arm(scores, scores > 99, truth), _arm(values, scores > -99, truth)
        assert split_change(none, every, LABELS, 5).value["ranking"] == 0


def test_other_studies_are_refused_and_another_order_is_not() -> None:
    scores, truth = _films(0, 60)
    a, b = _arm(scores, scores > 0, truth), _arm(scores + 1, scores > 1, truth)
    turned = (b[0][::-1], b[1][::-1])
    assert split_change(a, turned, LABELS, 5).value == split_change(a, b, LABELS, 5).value
    with pytest.raises(ValueError, match="different studies"):
        split_change(a, (b[0][2:], b[1][2:]), LABELS)
    with pytest.raises(ValueError, match="1 scores are not finite"):
        split_change(a, (np.where(b[0] == b[0].max(), np.nan, b[0]), b[1]), LABELS)


def test_a_thousand_draws_of_500_studies_take_a_second() -> None:
    scores, truth = _films(0, 500)
    arms = _arm(scores, scores > 0, truth), _arm(scores + 1, scores > 1, truth)
    start = time.process_time()
    assert len(split_change(*arms, LABELS, 1_000).draws["total"]) == 1_000
    assert time.process_time() - start < 3  # 0.8 where nothing else runs
