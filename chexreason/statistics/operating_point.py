"""A change in F1 as two parts: better ranking of the studies, and another operating point (prevalence of answers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from chexreason.statistics.bootstrap import Interval, Replicates, difference, replicates
from chexreason.statistics.metrics import BoolArray, FloatArray
from chexreason.statistics.predictions import counts
from chexreason.statistics.ranking import judged_scores
from chexreason.types import Prediction

N_FOLDS = 5
NEVER, ALWAYS = float("inf"), float("-inf")  # thresholds of a label best given to no study, or to every study


def split_change(own: Sequence[Replicates], refitted: Sequence[Replicates]) -> tuple[Interval, ...]:
    """The change in macro-F1 from one arm to another, then its part by ranking and its part by the operating point.

    ``own`` are the replicates of the answers of the arm before and of the arm after, ``refitted`` those of ``refit``.
    The part by ranking is the change between the arms after both get thresholds re-fitted by one rule, so that neither
    profits from its prevalence of answers. The part by operating point is the rest: the change in what each arm's own
    answers lose (or gain) against its re-fitted ones. The parts add up exactly in value. Raises ValueError when the
    arms saw different studies.
    """
    total, ranking = difference(*own), difference(*refitted)
    return tuple(change.percentiles("macro_f1") for change in (total, ranking, difference(ranking, total)))


def refit(
    scores: FloatArray,
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    *,
    fit_patients: int | None = 50,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Replicates:
    """An arm's scores [N, L] cut at thresholds fitted on other patients of the same data set; draws as ``replicates``.

    Patients are dealt into ``N_FOLDS``; each fold is cut at the thresholds that maximise each label's F1 on at most
    ``fit_patients`` patients of the other folds (None: all of them): the small labelled sample a new hospital could
    give. Every draw holds the thresholds as fitted. Folds and samples depend on the patients and the seed alone, so all
    arms share them. Studies without a judged label are left out.
    Raises ValueError with fewer patients than folds, and on scores of another shape or not finite.
    """
    scores, predictions = judged_scores(scores, predictions, labels)
    _, truth, mask = counts(predictions, labels)
    chosen = np.zeros_like(truth)
    for inside, fitted_on in _folds([p.patient_id for p in predictions], fit_patients, seed):
        for i in range(len(labels)):
            known = fitted_on & mask[:, i]
            chosen[inside, i] = scores[inside, i] >= best_threshold(scores[known, i], truth[known, i])
    named = [tuple(np.array(labels)[row].tolist()) for row in chosen & mask]
    answers = [
        replace(p, predicted=found, named=found, unknown=(), broken=None)
        for p, found in zip(predictions, named, strict=True)
    ]
    return replicates(answers, labels, n_resamples, seed)


def best_threshold(scores: FloatArray, truth: BoolArray) -> float:
    """The cut of scores [N] (label given where score >= cut) with the best F1 on truth [N] (bool).

    Half way between two neighbouring scores; of equal F1 the highest, ``NEVER`` without a positive.
    """
    if not truth.any():
        return NEVER
    levels, group = np.unique(-scores, return_inverse=True)  # ascending in -score
    found, given = np.bincount(group, weights=truth).cumsum(), np.bincount(group).cumsum()  # [K] each
    best = int((2 * found / (given + truth.sum())).argmax())  # the first of equals
    if best + 1 == len(levels):
        return ALWAYS
    return float(-levels[best] - levels[best + 1]) / 2


def _folds(patients: Sequence[str], fit_patients: int | None, seed: int) -> list[tuple[BoolArray, BoolArray]]:
    """(rows of the fold, rows its thresholds are fitted on), bool [N] each; a patient is on one side only."""
    names = sorted(set(patients))
    if len(names) < N_FOLDS:
        raise ValueError(f"{len(names)} patients cannot be dealt into {N_FOLDS} folds; add patients")
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    folds = []
    for k in range(N_FOLDS):
        inside = set(order[k::N_FOLDS])
        others = set([name for name in order if name not in inside][:fit_patients])
        folds.append((np.array([p in inside for p in patients]), np.array([p in others for p in patients])))
    return folds
