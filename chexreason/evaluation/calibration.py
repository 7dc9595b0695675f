"""Do scores mean what they say? Squared error and expected calibration error of one label, over weighted studies."""

from __future__ import annotations

import torch
from torch import Tensor


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
