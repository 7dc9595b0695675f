"""Ranking (AUROC, average precision) and calibration (Brier, ECE) of label scores, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chexreason.statistics.bootstrap import Replicates, as_replicates, owners, patient_weights
from chexreason.statistics.metrics import BoolArray, FloatArray, ratio
from chexreason.statistics.predictions import counts, on_judged
from chexreason.statistics.score_files import SCORE_KINDS
from chexreason.types import Prediction


def auroc(scores: FloatArray, truth: BoolArray, weights: FloatArray) -> FloatArray:
    """Area under the ROC curve [R] of scores [N] and truth [N] (bool), studies weighted [R, N]; ties count one half.

    NaN where a resample holds no positive or no negative study.
    """
    positive, negative = _by_score(scores, truth, weights)  # [R, K] each, K distinct scores, highest first
    below = negative.sum(axis=1, keepdims=True) - negative.cumsum(axis=1)
    won = (positive * (below + negative / 2)).sum(axis=1)
    return ratio(won, positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(scores: FloatArray, truth: BoolArray, weights: FloatArray) -> FloatArray:
    """Precision averaged over the positives [R] as the threshold falls, as scikit-learn defines it; arguments as above.

    NaN where a resample holds no positive study. Compare it with the prevalence, which is what chance earns.
    """
    positive, negative = _by_score(scores, truth, weights)
    found = positive.cumsum(axis=1)
    precision = ratio(found, found + negative.cumsum(axis=1), 0.0)
    return ratio((positive * precision).sum(axis=1), positive.sum(axis=1))


def ranking_replicates(
    scores: FloatArray,
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    *,
    kind: str = "frequency",
    n_resamples: int = 2_000,
    seed: int = 0,
) -> Replicates:
    """The patient-clustered bootstrap of ``<measure>/<label>`` and ``macro_<measure>`` of scores [N, L].

    Measures are ``RANKING`` and ``CALIBRATION``; ``predictions`` (N, in the scores' order) give truth, judged labels
    and patients. Frequencies are probabilities as they are, log-odds by their sigmoid; ranking sees the scores. A macro
    average is over the labels whose measure is defined on the data. Studies without a judged label are left out.
    ``intervals`` and ``paired`` take the result.
    Raises ValueError on scores of another shape, another kind, or that are not finite.
    """
    scores, predictions = judged_scores(scores, predictions, labels)
    if kind not in SCORE_KINDS:
        raise ValueError(f"unknown kind of scores '{kind}'; known: {', '.join(SCORE_KINDS)}")
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and its probability 0
        probabilities = 1 / (1 + np.exp(-scores)) if kind == "log_odds" else scores
    _, truth, mask = counts(predictions, labels)
    owner = owners(predictions)  # [N]
    n_patients = int(owner.max()) + 1
    weights = [np.ones((1, n_patients)), *patient_weights(n_patients, n_resamples, seed)]
    found: dict[str, FloatArray] = {}
    for name, measure in {**RANKING, **CALIBRATION}.items():
        values = scores if name in RANKING else probabilities
        columns = []
        for i, label in enumerate(labels):
            judged = mask[:, i]
            parts = [measure(values[judged, i], truth[judged, i], part[:, owner[judged]]) for part in weights]
            columns.append(np.concatenate(parts))  # [1 + R]
            found[f"{name}/{label}"] = columns[-1]
        each = np.stack(columns)  # [L, 1 + R]
        defined = ~np.isnan(each) & ~np.isnan(each[:, :1])
        found[f"macro_{name}"] = ratio(np.where(defined, each, 0.0).sum(axis=0), defined.sum(axis=0))
    return as_replicates(found, predictions, seed)


def judged_scores(
    scores: FloatArray, predictions: Sequence[Prediction], labels: Sequence[str]
) -> tuple[FloatArray, Sequence[Prediction]]:
    """The rows of studies with a judged label; raises ValueError on scores of another shape, or not finite."""
    shape = (len(predictions), len(labels))
    if scores.shape != shape:
        raise ValueError(f"scores have the shape {list(scores.shape)}; {shape[0]} studies, {shape[1]} labels expected")
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{len(bad)} scores are not finite: the first is {float(scores[row, column])} of '{labels[column]}' in "
            f"study '{predictions[row].study_id}'; score this arm anew with restart=true"
        )
    return scores[counts(predictions, labels)[2].any(axis=1)], on_judged(predictions, labels)


def _by_score(scores: FloatArray, truth: BoolArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight of positives and of negatives [R, K] at each of the K distinct scores, highest score first."""
    order = np.argsort(-scores, kind="stable")  # [N]
    starts = np.flatnonzero(np.diff(-scores[order], prepend=np.nan) != 0)  # [K], NaN starts the first
    weights, truth = weights[:, order], truth[order]
    return np.add.reduceat(weights * truth, starts, axis=1), np.add.reduceat(weights * ~truth, starts, axis=1)


def brier(scores: FloatArray, truth: BoolArray, weights: FloatArray) -> FloatArray:
    """Mean squared error [R] of scores [N] against truth [N] (bool), studies weighted [R, N] (Brier 1950)."""
    return ratio(weights @ np.square(scores - truth), weights.sum(axis=1))


def expected_calibration_error(
    scores: FloatArray, truth: BoolArray, weights: FloatArray, n_bins: int = 10, equal_mass: bool = False
) -> FloatArray:
    """Mean distance [R] of share of positives and mean score over bins of equal width (or mass), weighted by size.

    Scores [N] in 0..1, truth [N] (bool), weights [R, N]; a score on an edge belongs to the bin below (Naeini et al.
    2015). It depends on the bins and rises with small samples: compare arms, not studies.
    """
    edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    edges = np.quantile(scores, edges) if equal_mass else edges
    bins = np.searchsorted(edges, scores)  # [N]
    surplus = np.zeros((n_bins, len(scores)))
    surplus[bins, np.arange(len(scores))] = truth - scores  # [B, N]
    return ratio(np.abs(weights @ surplus.T).sum(axis=1), weights.sum(axis=1))


RANKING = {"auroc": auroc, "average_precision": average_precision}
CALIBRATION = {"brier": brier, "ece": expected_calibration_error}  # of probabilities
