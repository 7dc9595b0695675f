"""What can be said of a hospital without labels: distance of its films, prior shift, and whether that may be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chexreason.statistics.cuts import platt
from chexreason.statistics.metrics import BoolArray, FloatArray

ALPHA = 0.05
MIN_POSITIVES = 10  # of a label at home: of fewer, the distribution of scores is not known
IntArray = npt.NDArray[np.intp]
_RIDGE, _MOST = 0.05, 2.0  # of a case mix: pull of log odds ratios to 0, and the largest
_CAP = 1000  # films of a hospital in the distance of features, whose cost is their square


@dataclass(frozen=True)
class PriorShift:
    """Share of positives of each label at home and, by EM, away [L]; labels that are too rare at home are left out.

    ``p`` is the p-value of what EM assumes: that hospitals differ in their case mix alone, so that films of one finding
    are alike. Where it is not above ``ALPHA``, ``away`` is not to be used. No test without labels sees that a hospital
    gives other names to the same films.
    """

    labels: tuple[int, ...]
    home: FloatArray
    away: FloatArray
    p: float

    @property
    def usable(self) -> bool:
        """Whether nothing contradicts the estimate."""
        return self.p > ALPHA


def em_prior(log_odds: FloatArray, home: FloatArray) -> FloatArray:
    """The share of positives [L] at which calibrated ``log_odds`` [N, L] of priors ``home`` are likeliest.

    Source: Saerens et al. 2002, each label by itself.
    """
    prior: FloatArray = home
    for _ in range(200):
        p = _sigmoid(log_odds + _logit(prior) - _logit(home))
        before, prior = prior, p.mean(axis=0).clip(1e-3, 1 - 1e-3)
        if np.abs(prior - before).max() < 1e-5:
            break
    return prior


def case_mix(truth: BoolArray, prior: FloatArray) -> FloatArray:
    """Weights [N] of studies of ``truth`` [N, L] with which positives have the share ``prior``, or nearly so.

    They are exp(theta . labels), so that findings go on to occur together as they do; theta is kept small, for what
    would make a few studies stand for all is no case mix.
    """
    theta, y = np.zeros(truth.shape[1]), truth.astype(np.float64)
    weight: FloatArray
    for _ in range(30):
        weight = np.exp(y @ theta - (y @ theta).max())
        weight /= weight.sum()
        mean = weight @ y
        spread = ((y - mean).T * weight) @ (y - mean) + _RIDGE * np.eye(len(theta))
        step = np.linalg.solve(spread, prior - mean - _RIDGE * theta)
        theta = (theta + step.clip(-1.0, 1.0)).clip(-_MOST, _MOST)
        if np.abs(step).max() < 1e-4:
            break
    return weight


def prior_shift(
    home: tuple[FloatArray, FloatArray],
    truth: BoolArray,
    away: tuple[FloatArray, FloatArray],
    n_draws: int = 199,
    seed: int = 0,
) -> PriorShift | None:
    """How the case mix differs; ``home`` and ``away`` are scores [., L] and image features [., D], ``truth`` is [N, L].

    None where every label is rare at home. ``p`` says how often hospitals that do differ by their case mix alone fit as
    badly: home is drawn anew, and away from home with the weights of the estimate; calibration, EM and weights are done
    anew. The fit is the energy distance of scores and features away from those of home with its weights. Films are
    drawn, and not patients: give one film a patient.
    """
    kept = np.flatnonzero(np.minimum(truth.sum(axis=0), (~truth).sum(axis=0)) >= MIN_POSITIVES)
    if not len(kept):
        return None
    truth, n, m = truth[:, kept], len(truth), len(away[0])
    rows = np.concatenate(
        [np.concatenate(pair) / (pair[0].std(axis=0) + 1e-6) for pair in zip(home, away, strict=True)], 1
    )
    apart, scores = _distances(rows), np.concatenate([home[0], away[0]])[:, kept]
    prior, weight, observed = _misfit(apart, scores, truth, np.arange(n), n + np.arange(m))
    rng, worse, drawn = np.random.default_rng(seed), 0, 0
    while drawn < n_draws:
        here, there = rng.integers(n, size=n), rng.choice(n, m, p=weight)
        if truth[here].sum(axis=0).min() > 0 and truth[here].sum(axis=0).max() < n:
            drawn, worse = drawn + 1, worse + (_misfit(apart, scores, truth, here, there)[2] >= observed)
    return PriorShift(tuple(kept.tolist()), truth.mean(axis=0), prior, (1 + worse) / (1 + n_draws))


def _misfit(
    apart: FloatArray, scores: FloatArray, truth: BoolArray, here: IntArray, there: IntArray
) -> tuple[FloatArray, FloatArray, float]:
    """The priors of the studies ``there`` [L], weights of those ``here`` for them, and how far the two are apart."""
    labels, y = range(truth.shape[1]), truth[here]
    slope, bias = np.array([platt(scores[here, i], y[:, i]) for i in labels]).T
    prior = em_prior(scores[there] * slope + bias, y.mean(axis=0))
    weight = case_mix(y, prior)
    across, within = weight @ apart[np.ix_(here, there)].mean(axis=1), weight @ apart[np.ix_(here, here)] @ weight
    return prior, weight, float(2 * across - within - apart[np.ix_(there, there)].mean())


def energy_test(
    home: FloatArray,
    away: FloatArray,
    patients: tuple[Sequence[str], Sequence[str]],
    n_permutations: int = 999,
    seed: int = 0,
) -> tuple[float, float]:
    """Energy distance of features [N, D] and [M, D] (Szekely and Rizzo 2013) and its p-value, by permuting patients.

    Features are in units of their standard deviation at home; at most ``_CAP`` films of a hospital are drawn.
    """
    rng = np.random.default_rng(seed)
    picks = [np.sort(rng.permutation(len(x))[:_CAP]) for x in (home, away)]
    x = np.concatenate([home[picks[0]], away[picks[1]]]) / (home.std(axis=0) + 1e-6)
    distance = _distances(x)
    ids = [f"{side} {who[i]}" for side, (who, pick) in enumerate(zip(patients, picks, strict=True)) for i in pick]
    names, of = np.unique(ids, return_inverse=True)
    own = np.array([name[0] == "0" for name in names])
    z = np.stack([own, *(rng.permutation(own) for _ in range(n_permutations))])[:, of].astype(np.float64)  # [R, K]
    n, inside, all_of = z.sum(axis=1), np.einsum("rk,rk->r", z @ distance, z), z @ distance.sum(axis=1)
    m = len(x) - n
    energy = 2 * (all_of - inside) / (n * m) - inside / n**2 - (distance.sum() - 2 * all_of + inside) / m**2
    return float(energy[0]), float((energy >= energy[0] - 1e-12).mean())


def score_distances(home: FloatArray, away: FloatArray) -> list[float]:
    """The distance of Kolmogorov and Smirnov between scores [N, L] at home and [M, L] away, by label."""
    found = []
    for ours, theirs in zip(home.T, away.T, strict=True):
        at = np.concatenate([ours, theirs])
        below = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (ours, theirs)]
        found.append(float(np.abs(below[0] - below[1]).max()))
    return found


def _distances(x: FloatArray) -> FloatArray:
    """Of each row of x [K, D] to each, [K, K]."""
    square = (x**2).sum(axis=1)
    apart: FloatArray = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * x @ x.T, 0.0))
    return apart


def _sigmoid(x: FloatArray) -> FloatArray:
    p: FloatArray = 1 / (1 + np.exp(-np.clip(x, -500, 500)))
    return p


def _logit(p: FloatArray) -> FloatArray:
    odds: FloatArray = np.log(p / (1 - p))
    return odds
