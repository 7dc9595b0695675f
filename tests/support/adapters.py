"""A policy with an adapter that does something."""

from __future__ import annotations

import torch

from chexreason.model.adapters import attach_lora
from chexreason.model.policy import Policy


def with_lora(policy: Policy, seed: int = 0, *, r: int = 4, alpha: int = 8, dropout: float = 0.0) -> Policy:
    """The policy with a fresh adapter; its B is zero at first, which would hide mistakes, and so is filled."""
    torch.manual_seed(seed)
    attach_lora(policy, r=r, alpha=alpha, dropout=dropout)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return policy
