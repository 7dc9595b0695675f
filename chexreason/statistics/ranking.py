"""How well scores order studies, whatever the threshold: AUROC and average precision with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chexreason.statistics.bootstrap import Replicates, patient_weights
from chexreason.statistics.predictions import counts
from chexreason.statistics.score_files import KINDS
from chexreason.types import Prediction


def auroc(scores: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Area under the ROC curve [R] of scores [N] and truth [N] (bool), studies weighted [R, N]; ties count one half.

    NaN where a resample holds no positive or no negative study.
    """
    positive, negative = _by_score(scores, truth, weights)  # [R, K] each, K distinct scores, highest first
    below = negative.sum(dim=1, keepdim=True) - negative.cumsum(dim=1)
    won = (positive * (below + negative / 2)).sum(dim=1)
    return _defined(won, positive.sum(dim=1) * negative.sum(dim=1))


def average_precision(scores: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Precision averaged over the positives [R] as the threshold falls, as scikit-learn defines it; arguments as above.

    NaN where a resample holds no positive study. Compare it with the prevalence, which is what chance earns.
    """
    positive, negative = _by_score(scores, truth, weights)
    found = positive.cumsum(dim=1)
    precision = found / (found + negative.cumsum(dim=1)).clamp(min=1e-300)
    return _defined((positive * precision).sum(dim=1), positive.sum(dim=1))


def ranking_replicates(
    scores: Tensor,
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
    average is over the labels whose measure is defined on the data. ``intervals`` and ``paired`` take the result.
    Raises ValueError on scores of another shape, another kind, or that are not finite.
    """
    check_scores(scores, predictions, labels)
    if kind not in KINDS:
        raise ValueError(f"unknown kind of scores '{kind}'; known: {', '.join(KINDS)}")
    scores = scores.double()
    probabilities = scores.sigmoid() if kind == "log_odds" else scores
    _, truth, mask = counts(predictions, labels)
    patients = {patient: row for row, patient in enumerate(sorted({p.patient_id for p in predictions}))}
    owner = torch.tensor([patients[p.patient_id] for p in predictions])  # [N]
    weights = [torch.ones(1, len(patients), dtype=torch.float64), *patient_weights(len(patients), n_resamples, seed)]
    draws: dict[str, Tensor] = {}
    for name, measure in {**RANKING, **CALIBRATION}.items():
        values = scores if name in RANKING else probabilities
        columns = []
        for i, label in enumerate(labels):
            judged = mask[:, i]
            parts = [measure(values[judged, i], truth[judged, i], part[:, owner[judged]]) for part in weights]
            columns.append(torch.cat(parts))  # [1 + R]
            draws[f"{name}/{label}"] = columns[-1]
        each = torch.stack(columns)  # [L, 1 + R]
        draws[f"macro_{name}"] = each[~each[:, 0].isnan()].nanmean(dim=0)
    return Replicates(
        studies={p.study_id: p.patient_id for p in predictions},
        seed=seed,
        value={name: float(column[0]) for name, column in draws.items()},
        draws={name: column[1:] for name, column in draws.items()},
    )


def check_scores(scores: Tensor, predictions: Sequence[Prediction], labels: Sequence[str]) -> None:
    """Refuse (ValueError) scores that are not [N, L], or not finite, naming the first study and label."""
    shape = (len(predictions), len(labels))
    if scores.shape != shape:
        raise ValueError(f"scores have the shape {list(scores.shape)}; {shape[0]} studies, {shape[1]} labels expected")
    bad = (~scores.isfinite()).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{len(bad)} scores are not finite: the first is {float(scores[row, column])} of '{labels[column]}' in "
            f"study '{predictions[row].study_id}'; score this arm again"
        )


def _by_score(scores: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of positives and of negatives [R, K] at each of the K distinct scores, highest score first."""
    levels, group = torch.unique(-scores, return_inverse=True)  # ascending in -score
    total = torch.zeros(2, len(weights), len(levels), dtype=torch.float64)
    for part, chosen in zip(total, (truth, ~truth), strict=True):
        part.index_add_(1, group[chosen], weights[:, chosen])
    return total[0], total[1]


def _defined(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-300), torch.nan)


def brier(scores: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error [R] of scores [N] against truth [N] (bool), studies weighted [R, N] (Brier 1950)."""
    return weights @ (scores - truth.double()).square() / weights.sum(dim=1)


def expected_calibration_error(scores: Tensor, truth: Tensor, weights: Tensor, n_bins: int = 10) -> Tensor:
    """Mean distance [R] of share of positives and mean score over bins of equal width, weighted by their size.

    Scores [N] in 0..1, truth [N] (bool), weights [R, N]; a score on an edge belongs to the bin below (Naeini et al.
    2015). It depends on the bins and rises with small samples: compare arms, not studies.
    """
    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)[1:-1]
    bins = torch.bucketize(scores.contiguous(), edges)  # [N]
    surplus = torch.zeros(n_bins, len(scores), dtype=torch.float64)
    surplus[bins, torch.arange(len(scores))] = truth.double() - scores  # [B, N]
    return (weights @ surplus.T).abs().sum(dim=1) / weights.sum(dim=1)


RANKING = {"auroc": auroc, "average_precision": average_precision}
CALIBRATION = {"brier": brier, "ece": expected_calibration_error}  # of probabilities
