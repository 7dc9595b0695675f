"""The clipped policy objective: pure functions of token log-probabilities, and the spec that names every choice in it.

"GRPO" and "Dr. GRPO" mean different things in different code bases, so a spec spells out its parts; the named ones are
the YAML files of the config group ``objective``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Normaliser = Literal["constant", "sequence_mean", "token_mean"]
Scale = Literal["none", "std"]
KLEstimator = Literal["k1", "k2", "k3"]
RatioLevel = Literal["token", "sequence"]

# Above this difference of log-probabilities exp() goes on as its tangent: nothing overflows, and unlike under a clamp
# the gradient that pulls the policy back never vanishes. Tokens the policy gives more than exp(-10) stay below it.
LOG_RATIO_LIMIT = 10.0


@dataclass(frozen=True)
class ObjectiveSpec:
    """Every choice that tells one GRPO objective from another.

    ``normaliser``: "constant" divides a completion's token sum by the maximum completion length (Dr. GRPO),
    "sequence_mean" by its own length (GRPO), "token_mean" divides all tokens of the update by their number (DAPO).
    ``scale``: whether advantages are divided by the group's standard deviation.
    ``clip_low``, ``clip_high``: the ratio is clipped to [1 - clip_low, 1 + clip_high].
    ``ratio_level``: one importance ratio per token, or one per completion (geometric mean of its token ratios).
    ``kl_beta``, ``kl_estimator``: weight and per-token estimator of KL(policy || reference) in the loss.
    ``kl_ratio_factor``: whether the importance ratio multiplies the KL term, which corrects it off-policy.
    ``updates_per_rollout``: optimiser steps on each rollout; at 1 the ratio is always 1 and the clip never acts.
    Raises ValueError on a value outside these.
    """

    name: str
    normaliser: Normaliser
    scale: Scale
    clip_low: float
    clip_high: float
    kl_beta: float
    kl_estimator: KLEstimator
    ratio_level: RatioLevel
    kl_ratio_factor: bool
    updates_per_rollout: int

    def __post_init__(self) -> None:
        choices = {"normaliser": Normaliser, "scale": Scale, "kl_estimator": KLEstimator, "ratio_level": RatioLevel}
        for field, allowed in choices.items():
            value = getattr(self, field)
            if value not in get_args(allowed):
                raise ValueError(
                    f"objective '{self.name}': {field}='{value}'; use one of {', '.join(get_args(allowed))}"
                )
        if not 0.0 <= self.clip_low < 1.0 or self.clip_high < 0.0:
            raise ValueError(
                f"objective '{self.name}': clip_low={self.clip_low} must be in [0, 1) "
                f"and clip_high={self.clip_high} >= 0"
            )
        if self.kl_beta < 0.0 or self.updates_per_rollout < 1:
            raise ValueError(
                f"objective '{self.name}': kl_beta={self.kl_beta} must be >= 0 "
                f"and updates_per_rollout={self.updates_per_rollout} >= 1"
            )

    @property
    def clip_can_act(self) -> bool:
        """False when each rollout is used once: the policy is then the one that sampled it."""
        return self.updates_per_rollout > 1


def policy_loss(
    logp: Tensor, old_logp: Tensor, ref_logp: Tensor | None, advantages: Tensor, mask: Tensor, spec: ObjectiveSpec
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss **sum** of some rows of an update, and sums for its statistics.

    ``logp`` (differentiated), ``old_logp`` (policy that sampled) and ``ref_logp`` are [N, T], ``advantages`` [N],
    ``mask`` bool [N, T], True on the completion's tokens. What masked positions hold, NaN included, has no influence.
    Add the sums of all micro-batches and divide once by the update's summed ``denominator``.

    Statistics are sums to divide by ``tokens``: ``ratio``, ``abs_log_ratio`` (0 on a fresh rollout, unless sampling and
    training disagree), ``clip_low`` and ``clip_high`` (tokens whose gradient that side of the clip cuts), ``kl`` (only
    with a reference).
    Raises ValueError on mismatched shapes, and when ``kl_beta`` is positive without a reference.
    Source: Schulman et al. 2017 (clip), Shao et al. 2024 (GRPO), Yu et al. 2025 (asymmetric clip), Liu et al. 2025
    (Dr. GRPO).
    """
    _check(logp, old_logp, ref_logp, advantages, mask, spec)
    logp = _fill(logp, mask)  # [N, T]
    log_ratio = logp - _fill(old_logp, mask).detach()  # [N, T]
    ratio = _exp(_ratio_exponent(log_ratio, mask, spec))  # [N, T]
    gain = advantages.detach()[:, None]  # [N, 1]
    clipped = ratio.clamp(1.0 - spec.clip_low, 1.0 + spec.clip_high)  # [N, T]
    loss = -torch.minimum(ratio * gain, clipped * gain)  # [N, T]
    sums = {
        "tokens": mask,
        "ratio": ratio,
        "abs_log_ratio": log_ratio.abs(),
        "clip_low": (gain < 0) & (ratio < 1.0 - spec.clip_low),
        "clip_high": (gain > 0) & (ratio > 1.0 + spec.clip_high),
    }
    if ref_logp is not None:
        kl = kl_divergence(logp, _fill(ref_logp, mask).detach(), spec.kl_estimator)  # [N, T]
        sums["kl"] = kl
        loss = loss + spec.kl_beta * (ratio * kl if spec.kl_ratio_factor else kl)

    stats = {name: _fill(values.detach().to(loss.dtype), mask).sum() for name, values in sums.items()}
    rows = _fill(loss, mask).sum(dim=1)  # [N]
    if spec.normaliser == "sequence_mean":
        rows = rows / mask.sum(dim=1).clamp(min=1)
    return rows.sum(), stats


def denominator(mask: Tensor, spec: ObjectiveSpec, max_completion_length: int) -> Tensor:
    """What the loss sum of these rows is divided by, a float scalar that adds up over micro-batches and ranks.

    Rows without a single token are padding and count for nothing. Where gradients are averaged over ranks, sum this
    over ranks and multiply the loss by their number.
    """
    if spec.normaliser == "token_mean":
        return mask.sum().float()
    rows = mask.any(dim=1).sum().float()
    return rows * max_completion_length if spec.normaliser == "constant" else rows


def kl_divergence(logp: Tensor, ref_logp: Tensor, estimator: KLEstimator) -> Tensor:
    """Per-token estimate of KL(policy || reference) from log-probabilities of one shape, on the policy's samples.

    k1 = new - ref and k3 = exp(ref - new) - (ref - new) - 1 are unbiased, k3 is never negative; k2 = (new - ref)^2 / 2
    is biased. As a loss on fresh samples k1 has zero expected gradient and k2 the true one.
    Source: Schulman, "Approximating KL divergence" (2020).
    """
    gap = ref_logp - logp
    if estimator == "k1":
        return -gap
    if estimator == "k2":
        return 0.5 * gap.square()
    return _exp(gap) - gap - 1.0


def _ratio_exponent(log_ratio: Tensor, mask: Tensor, spec: ObjectiveSpec) -> Tensor:
    if spec.ratio_level == "token":
        return log_ratio
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)  # [N, 1]
    return (log_ratio.sum(dim=1, keepdim=True) / lengths).expand_as(log_ratio)  # [N, T]


def _exp(x: Tensor) -> Tensor:
    """exp(x) up to LOG_RATIO_LIMIT, its tangent at the limit above."""
    bounded = x.clamp(max=LOG_RATIO_LIMIT)
    return bounded.exp() * (1.0 + (x - bounded))


def _fill(values: Tensor, mask: Tensor) -> Tensor:
    """Zero, in value and in gradient, wherever the mask is False; at least single precision elsewhere."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(mask, values, torch.zeros_like(values))


def _check(
    logp: Tensor, old_logp: Tensor, ref_logp: Tensor | None, advantages: Tensor, mask: Tensor, spec: ObjectiveSpec
) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, not {mask.dtype}: pass mask.bool()")
    given = {"logp": logp, "old_logp": old_logp, "ref_logp": ref_logp, "mask": mask}
    shapes = {name: tuple(values.shape) for name, values in given.items() if values is not None}
    if logp.dim() != 2 or len(set(shapes.values())) != 1 or advantages.shape != logp.shape[:1]:
        raise ValueError(f"need [N, T] for {shapes} and [N] for advantages {tuple(advantages.shape)}")
    if spec.kl_beta > 0 and ref_logp is None:
        raise ValueError(f"objective '{spec.name}' has kl_beta={spec.kl_beta}: pass ref_logp, or set kl_beta=0")
