"""Calibration of label scores, and the score from which each label is named, for a declared target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chexreason.statistics.bootstrap import Interval, Z, wilson
from chexreason.statistics.metrics import BoolArray, FloatArray, ratio

CALIBRATIONS = ("platt", "temperature")
CUT_TARGETS = {  # name -> what ``at`` says; None where it says nothing
    "sensitivity": "the specificity that a label keeps; its sensitivity is the highest there",
    "specificity": "the sensitivity that a label keeps; its specificity is the highest there",
    "cost": "the false alarms that one missed finding costs",
    "rate": "the share of studies for which each label is named",
    "f1": None,  # the best F1 of each label
    "jaccard": None,  # the best mean overlap of named and true labels of a study, found label by label in turn
}
_SHARES = ("sensitivity", "specificity", "rate")
_MAX_STEPS, _MAX_ROUNDS = 100, 20
Rule = Callable[[FloatArray, BoolArray, BoolArray], FloatArray]  # scores, truth, mask -> cuts


@dataclass(frozen=True)
class Target:
    """What cuts are chosen for: a name of ``CUT_TARGETS`` and its figure; raises ValueError on what no cut can meet."""

    name: str = "sensitivity"
    at: float | None = 0.9

    def __post_init__(self) -> None:
        if self.name not in CUT_TARGETS:
            raise ValueError(f"target={self.name}: choose one of {', '.join(CUT_TARGETS)}")
        if CUT_TARGETS[self.name] is None:
            object.__setattr__(self, "at", None)
        elif self.at is None or not 0 < self.at < (1 if self.name in _SHARES else math.inf):
            span = "between 0 and 1, such as 0.9" if self.name in _SHARES else "a number above 0, such as 5"
            raise ValueError(f"at={self.at}: for target={self.name} it is {CUT_TARGETS[self.name]}, {span}")

    @property
    def kept(self) -> str:
        """The share that is kept at ``at`` while the other one is raised; "" of other targets."""
        return {"sensitivity": "specificity", "specificity": "sensitivity"}.get(self.name, "")

    def __str__(self) -> str:
        return f"{self.name} at {self.kept} {self.at}".replace("  ", " ") if self.at else self.name

    def needed(self, share: float = 1.0) -> int | None:
        """The patients from which on the interval of ``share`` lies above ``at``; None where no number is enough."""
        at = self.at or 0.0
        return (
            math.ceil(Z**2 * at * (1 - at) / (share - at) ** 2) if share > at else None
        )  # Wilson's bound, turned round


def calibrate(
    scores: FloatArray, truth: BoolArray, mask: BoolArray, kind: str = "platt", min_positives: int = 10
) -> tuple[FloatArray, FloatArray]:
    """Slopes [L] >= 0 and biases [L] that make sigmoid(slope * score + bias) a probability; arrays are [N, L].

    ``platt`` gives each label a slope and a bias, ``temperature`` one slope to all labels and a bias to each, which
    ``platt`` also gives to labels with fewer than ``min_positives``. Targets are Platt's (1999), (N+ + 1) / (N+ + 2)
    and 1 / (N- + 2), so that separable labels stay finite.
    """
    if kind not in CALIBRATIONS:
        raise ValueError(f"calibration={kind}: choose one of {', '.join(CALIBRATIONS)}")
    n, positives = mask.sum(axis=0), (truth & mask).sum(axis=0)
    aims = np.where(truth, (positives + 1) / (positives + 2), 1 / (n - positives + 2))  # [N, L]
    middle, spread = (f(scores, axis=0, where=mask | (n == 0)) for f in (np.mean, np.std))
    unit = float(np.sqrt(np.mean(np.square(spread)))) or 1.0
    rows, label = np.nonzero(mask)
    x = np.column_stack([(scores - middle)[rows, label] / unit, np.eye(len(n))[label]])
    slope, *biases = logistic(x, aims[rows, label])
    slopes, at = np.full(len(n), max(slope, 0.0) / unit), np.array(biases)
    flat = np.log((positives + 1) / (n - positives + 1))
    for i in np.flatnonzero(positives >= min_positives) if kind == "platt" else ():
        slopes[i], bias = platt(scores[mask[:, i], i], truth[mask[:, i], i])
        at[i] = bias + slopes[i] * middle[i]
    worse = slopes <= 0  # scores that rank worse than chance say no more than the prevalence
    slopes, at = np.where(worse, 0.0, slopes), np.where(worse, flat, at)
    return slopes, at - slopes * middle


def platt(scores: FloatArray, truth: BoolArray) -> tuple[float, float]:
    """Slope and bias of sigmoid(slope * score + bias) for one label [N], with Platt's targets: finite on any data.

    One over the slope is a temperature; with its bias it is Alexandari et al. 2020 (1901.06852) for a yes or no.
    """
    found, n, middle, width = int(truth.sum()), len(truth), float(scores.mean()), float(scores.std()) or 1.0
    aims = np.where(truth, (found + 1) / (found + 2), 1 / (n - found + 2))
    slope, at = logistic(np.column_stack([(scores - middle) / width, np.ones(n)]), aims)
    return float(slope / width), float(at - slope / width * middle)


def logistic(x: FloatArray, aims: FloatArray, penalty: float = 1e-3) -> FloatArray:
    """The weights [D] of a logistic regression of ``aims`` [N] (0..1) on x [N, D], by damped Newton steps."""

    def loss(w: FloatArray) -> float:
        z = x @ w
        return float((np.logaddexp(0, z) - aims * z).sum() + penalty * w @ w / 2)

    w = np.zeros(x.shape[1])
    for _ in range(_MAX_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        slope = x.T @ (p - aims) + penalty * w
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + penalty * np.eye(len(w)), slope)
        size = next((2.0**-k for k in range(30) if loss(w - 2.0**-k * step) < loss(w)), 0.0)
        w = w - size * step
        if size * np.abs(step).max() < 1e-10:
            break
    return w


def fit_cuts(
    scores: FloatArray,
    truth: BoolArray,
    mask: BoolArray,
    target: Target,
    *,
    min_positives: int = 10,
    weights: FloatArray | None = None,
) -> FloatArray:
    """The cut of each label [L], named where score >= cut, on studies [N] that count ``weights`` each; arrays [N, L].

    A share that is to be kept is kept on these studies; whether it is met elsewhere is what its interval says
    (``attained``). Labels with fewer than ``min_positives`` share one cut, in standard deviations of their
    scores from their mean: that of these labels taken as one, drawn towards the median of the others as if that were
    ``min_positives`` positives more. Raises ValueError where no label has a positive.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    if not (truth & mask).any():
        raise ValueError("no label has a positive among the studies that cuts are fitted on: add labelled studies")
    rare = rare_labels(truth, mask, min_positives)
    middle, spread = (f(scores, axis=0, where=mask | ~mask.any(axis=0)) for f in (np.mean, np.std))
    spread = np.where(spread > 0, spread, 1.0)
    cuts, often = np.zeros(len(rare)), np.flatnonzero(~rare).tolist()
    for i in often:
        on = mask[:, i]
        cuts[i] = _best(scores[on, i], truth[on, i], weights[on], target)
    shared = ((cuts - middle) / spread)[often]
    if rare.any():
        rows, column = np.nonzero(mask & rare)
        found = int((truth & mask)[:, rare].sum())
        if found:
            level = ((scores - middle) / spread)[rows, column]
            pooled = _best(level, truth[rows, column], weights[rows], target)
            common = np.median(shared) if len(shared) else pooled
            shrunk = (found * pooled + min_positives * common) / (found + min_positives)
        else:
            shrunk = np.median(shared)
        cuts[rare] = (middle + shrunk * spread)[rare]
    return _ascend(scores, truth, mask, weights, cuts, often) if target.name == "jaccard" else cuts


def rare_labels(truth: BoolArray, mask: BoolArray, min_positives: int) -> BoolArray:
    """The labels [L] with fewer than ``min_positives`` positives: they share a cut."""
    few: BoolArray = (truth & mask).sum(axis=0) < max(min_positives, 1)
    return few


def _steps(scores: FloatArray) -> tuple[NDArray[np.intp], FloatArray, NDArray[np.intp]]:
    """The order of scores [N], highest first; the K + 1 cuts that part them; how many studies each of them names."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    levels = scores[order][ends]  # [K]
    return (
        order,
        np.concatenate([[levels[0] + 1], (levels[:-1] + levels[1:]) / 2, [levels[-1] - 1]]),
        np.r_[0, ends + 1],
    )


def _best(scores: FloatArray, truth: BoolArray, weights: FloatArray, target: Target) -> float:
    """The cut of one label; of equally good ones the highest."""
    order, cuts, n = _steps(scores)
    hits, alarms = (np.r_[0.0, (weights * of)[order].cumsum()][n] for of in (truth, ~truth))  # [K + 1], [K + 1]
    found, wrong, name, at = hits[-1], alarms[-1], target.name, target.at or 0.0
    if name == "specificity":  # the first cut that finds enough
        return float(cuts[(ratio(hits, found, 1.0) >= at).argmax()])
    if name == "sensitivity":  # of equal sensitivity with the fewest alarms
        last = np.flatnonzero(1 - ratio(alarms, wrong, 0.0) >= at)[-1]
        return float(cuts[int(np.searchsorted(hits, hits[last]))])
    if name == "cost":
        return float(cuts[(at * (found - hits) + alarms).argmin()])
    if name == "rate":
        return float(cuts[np.abs(hits + alarms - at * (found + wrong)).argmin()])
    return float(cuts[ratio(2 * hits, hits + alarms + found, 0.0).argmax()])


def _ascend(
    scores: FloatArray, truth: BoolArray, mask: BoolArray, weights: FloatArray, cuts: FloatArray, often: Sequence[int]
) -> FloatArray:
    """Cuts [L] from which no other cut of one label of ``often`` raises the mean overlap of a study."""
    cuts, truth = cuts.copy(), truth & mask
    for _ in range(_MAX_ROUNDS):
        before = cuts.copy()
        for i in often:
            named = (scores >= cuts) & mask
            named[:, i] = False
            both, either = (named & truth).sum(axis=1), (named | truth).sum(axis=1)  # [N] without this label
            on = mask[:, i]
            with_it = ratio(both + truth[:, i], either + ~truth[:, i])
            gain = (weights * (with_it - ratio(both, either, 1.0)))[on]
            order, tried, n = _steps(scores[on, i])
            overlap = np.r_[0.0, gain[order].cumsum()][n]
            now = int((tried > cuts[i]).sum())  # keeps its cut where none is better
            best = int(overlap.argmax())
            if overlap[best] > overlap[now] + 1e-12:
                cuts[i] = tried[best]
        if (cuts == before).all():
            break
    return cuts


def attained(named: BoolArray, truth: BoolArray, mask: BoolArray, patients: Sequence[str]) -> dict[str, list[Interval]]:
    """``sensitivity`` and ``specificity`` of each label [L] of ``named`` [N, L], with Wilson's interval over patients.

    As many patients as have such a study stand for the studies. NaN where there is none.
    """
    owner = np.unique(np.asarray(patients), return_inverse=True)[1]
    found: dict[str, list[Interval]] = {}
    for name, of, right in (("sensitivity", truth & mask, named), ("specificity", mask & ~truth, ~named)):
        found[name] = []
        for on, good in zip(of.T, right.T, strict=True):
            share, units = float(good[on].mean()) if on.any() else math.nan, len(np.unique(owner[on]))
            found[name].append(Interval(share, *(wilson(share * units, units) if units else (math.nan, math.nan))))
    return found


def cross_fitted(
    rule: Rule,
    scores: FloatArray,
    truth: BoolArray,
    mask: BoolArray,
    patients: Sequence[str],
    *,
    n_folds: int = 5,
    n_repeats: int = 10,
    seed: int = 0,
) -> BoolArray:
    """The labels named [T, N, L] by cuts that ``rule`` fits on other patients, in ``n_repeats`` dealings into folds.

    Raises ValueError with fewer patients than folds.
    """
    named, rng = np.zeros((n_repeats, *scores.shape), dtype=bool), np.random.default_rng(seed)
    for repeat in named:
        for inside in folds(patients, n_folds, rng):
            rest = ~inside
            cuts = rule(scores[rest], truth[rest], mask[rest])
            repeat[inside] = scores[inside] >= cuts
    return named


def folds(patients: Sequence[str], n: int, rng: np.random.Generator) -> list[BoolArray]:
    """The studies [N] of each of ``n`` folds, dealt by patient; raises ValueError with fewer patients than folds."""
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < n:
        raise ValueError(f"{len(names)} patients cannot be dealt into {n} folds; add patients")
    fold = (rng.permutation(len(names)) % n)[owner]
    return [fold == k for k in range(n)]
