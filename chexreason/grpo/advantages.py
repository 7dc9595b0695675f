"""Rewards of a group to advantages: pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# Rewards that differ by less, relative to the larger of their size and 1, are equal but for rounding.
TOLERANCE = 1e-6


def zero_variance(rewards: Tensor) -> Tensor:
    """True [B] where all completions of a group [B, G] have one reward, up to rounding: the group teaches nothing."""
    _check(rewards)
    size = rewards.abs().amax(dim=1).clamp(min=1.0)  # [B]
    return rewards.amax(dim=1) - rewards.amin(dim=1) <= TOLERANCE * size  # [B]


def group_advantages(rewards: Tensor, *, scale: Literal["none", "std"], epsilon: float = 0.0) -> Tensor:
    """Rewards [B, G] centred on their group's mean, and with ``scale="std"`` divided by its standard deviation (G - 1).

    ``epsilon`` is added to that deviation: other libraries guard their division so, and shrink small signals by it.
    A group without variance gets exact zeros: the rounding of its mean is no signal.
    Raises ValueError on rewards that are not a finite [B, G]. Source: Shao et al. 2024 (std); Liu et al. 2025 (none).
    """
    if scale not in ("none", "std"):
        raise ValueError(f"scale='{scale}' is not a way to scale advantages; use 'none' or 'std'")
    flat = zero_variance(rewards)[:, None]  # [B, 1]
    centred = rewards - rewards.mean(dim=1, keepdim=True)  # [B, G]
    if scale == "std":
        # G - 1, and 1 for a group of one, which is flat in any case.
        variance = centred.square().sum(dim=1, keepdim=True) / max(rewards.shape[1] - 1, 1)  # [B, 1]
        centred = centred / torch.where(flat, torch.ones_like(variance), variance.sqrt() + epsilon)
    return torch.where(flat, torch.zeros_like(centred), centred)  # [B, G]


def _check(rewards: Tensor) -> None:
    if rewards.dim() != 2 or not rewards.is_floating_point():
        raise ValueError(f"rewards must be float [B, G], one row a group, not {rewards.dtype} {tuple(rewards.shape)}")
    bad = (~torch.isfinite(rewards)).nonzero().tolist()
    if bad:
        group, member = bad[0]
        raise ValueError(
            f"reward {rewards[group, member].item()} in group {group}, completion {member}: must be finite"
        )
