"""What a few labelled patients of a new hospital gain: cuts shrunken to home's, an intercept alone, or free cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chexreason.statistics.bootstrap import Interval
from chexreason.statistics.cuts import Rule
from chexreason.statistics.metrics import BoolArray, FloatArray, ratio

WAYS = ("shrunken cuts", "intercept alone", "free cuts")
_SPAN, _STEPS = 50.0, 60  # in which an intercept lies; halvings of it


def few_label_gain(
    rule: Rule,
    cuts: FloatArray,
    calibration: tuple[FloatArray, FloatArray],
    scores: FloatArray,
    own: BoolArray,
    truth: BoolArray,
    mask: BoolArray,
    patients: Sequence[str],
    n_labelled: Sequence[int],
    *,
    consecutive: bool = False,
    strength: int = 10,
    n_draws: int = 200,
    seed: int = 0,
) -> dict[str, dict[int, Interval]]:
    """The gain in macro-F1 over ``own`` answers [N, L] of each of ``WAYS`` with ``n_labelled`` patients; arrays [N, L].

    ``cuts`` [L] and ``calibration`` (slopes, biases) were fitted at home; at n = 0 all ways are these cuts. In a draw
    n patients (at random, or ``consecutive`` ones in the order of the rows) are labelled and all others are scored. The
    interval holds 95 % of the draws. Shrunken cuts weigh home's as ``strength`` positives; an intercept moves a label's
    cut by as much as its calibration has to move; free cuts are ``rule`` on the n patients alone. A label without a
    positive and a negative among them keeps home's cut. Raises ValueError where n leaves fewer than half of the
    patients to score.
    """
    owner = np.unique(np.asarray(patients), return_inverse=True)[1]
    order = np.argsort(np.unique(owner, return_index=True)[1])  # patients as the rows have them
    n_patients, rng = len(order), np.random.default_rng(seed)
    if odd := [n for n in n_labelled if type(n) is not int or n < 0]:
        raise ValueError(f"few_labels: '{odd[0]}' is no number of patients; write such as [0,10,20]")
    if too_many := [n for n in n_labelled if 2 * n > n_patients]:
        raise ValueError(f"{too_many[0]} of {n_patients} patients leave fewer than half to score: label fewer")
    found: dict[str, dict[int, Interval]] = {way: {} for way in WAYS}
    for n in n_labelled:
        gains = []
        for _ in range(n_draws if n else 1):
            start = int(rng.integers(n_patients))
            drawn = np.roll(order, -start)[:n] if consecutive else rng.permutation(n_patients)[:n]
            inside = np.isin(owner, drawn)
            fitted = _ways(rule, cuts, calibration, scores[inside], truth[inside], mask[inside], strength)
            there, judged, left = truth[~inside], mask[~inside], scores[~inside]
            base = _macro_f1(own[~inside], there, judged)
            gains.append([_macro_f1(left >= each, there, judged) - base for each in fitted])
        low, high = np.percentile(gains, [2.5, 97.5], axis=0)
        for i, way in enumerate(WAYS):
            found[way][n] = Interval(float(np.mean(gains, axis=0)[i]), float(low[i]), float(high[i]))
    return found


def _ways(
    rule: Rule,
    cuts: FloatArray,
    calibration: tuple[FloatArray, FloatArray],
    scores: FloatArray,
    truth: BoolArray,
    mask: BoolArray,
    k: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The cuts [L] of each of ``WAYS`` from the labelled studies."""
    positives, negatives = (truth & mask).sum(axis=0), (~truth & mask).sum(axis=0)
    known = (positives > 0) & (negatives > 0)
    if not known.any():
        return cuts, cuts, cuts
    free = np.where(known, rule(scores, truth, mask), cuts)
    shrunken = (positives * free + k * cuts) / (positives + k)
    (slopes, biases), share = calibration, (positives + 0.5) / (positives + negatives + 1)
    low, high = np.full(len(cuts), -_SPAN), np.full(len(cuts), _SPAN)
    for _ in range(_STEPS):
        bias = (low + high) / 2
        p = 1 / (1 + np.exp(-np.clip(scores * slopes + bias, -500, 500)))
        above = ratio((p * mask).sum(axis=0), mask.sum(axis=0), 0.0) > share
        low, high = np.where(above, low, bias), np.where(above, bias, high)
    moves = known & (slopes > 0)
    moved = np.where(moves, cuts + (biases - bias) / np.where(moves, slopes, 1.0), cuts)  # of the same probability
    return shrunken, moved, free


def _macro_f1(named: BoolArray, truth: BoolArray, mask: BoolArray) -> float:
    """Macro-F1 over the labels that are judged; a label that nobody has and nobody names counts 0."""
    named, truth = named & mask, truth & mask
    f1 = ratio(2 * (named & truth).sum(axis=0), named.sum(axis=0) + truth.sum(axis=0), 0.0)
    return float(f1[mask.any(axis=0)].mean())
