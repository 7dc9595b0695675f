"""Group advantages and the clipped policy objective as pure functions, and the spec that names every choice in it.

"GRPO" and "Dr. GRPO" mean different things in different code bases, so a spec spells out its parts; the named ones are
the YAML files of the config group ``objective``, compared in docs/OBJECTIVES.md.
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
RatioTemperature = Literal["sampling", "unit"]
Correction = Literal["none", "token", "sequence"]
Rows = Literal["keep", "mask"]

# Above this difference of log-probabilities exp() goes on as its tangent: nothing overflows, and unlike under a clamp
# the gradient that pulls the policy back never vanishes. Tokens the policy gives more than exp(-10) stay below it.
LOG_RATIO_LIMIT = 10.0
# Rewards that differ by less, relative to the larger of their size and 1, are equal but for rounding.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class ObjectiveSpec:
    """Every choice that tells one GRPO objective from another.

    ``normaliser``: "constant" divides a completion's token sum by the maximum completion length (Dr. GRPO),
    "sequence_mean" by its own length (GRPO), "token_mean" divides all tokens of the update by their number (DAPO).
    ``scale``, ``std_epsilon``: whether advantages are divided by the group's standard deviation, and what is added to
    it.
    ``clip_low``, ``clip_high``: the ratio is clipped to [1 - clip_low, 1 + clip_high].
    ``dual_clip``: where the advantage is negative, the ratio counts as at most this; None sets no bound.
    ``ratio_level``: one importance ratio per token, or one per completion (geometric mean of its token ratios).
    ``ratio_temperature``: log-probabilities of ratio and KL are of softmax(logits / t), t as when sampling, or 1.
    ``kl_beta``, ``kl_estimator``: weight and per-token estimator of KL(policy || reference) in the loss.
    ``kl_ratio_factor``: whether the importance ratio multiplies the KL term, which corrects it off-policy.
    ``correction``, ``correction_cap``: weight of the policy term, old policy as training computes it over distribution
    drawn from, truncated at the cap: one per token, one per completion (product), or none.
    ``truncated``: whether completions cut off at the maximum length count. ``zero_variance``: whether groups whose
    completions all earn the same do; their advantage is 0, but they add to the divisor and to the KL term.
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
    std_epsilon: float = 0.0
    dual_clip: float | None = None
    ratio_temperature: RatioTemperature = "sampling"
    correction: Correction = "none"
    correction_cap: float = 2.0
    truncated: Rows = "keep"
    zero_variance: Rows = "keep"

    def __post_init__(self) -> None:
        choices = {
            "normaliser": Normaliser,
            "scale": Scale,
            "kl_estimator": KLEstimator,
            "ratio_level": RatioLevel,
            "ratio_temperature": RatioTemperature,
            "correction": Correction,
            "truncated": Rows,
            "zero_variance": Rows,
        }
        faults = [
            f"{field}='{getattr(self, field)}'; use one of {', '.join(get_args(allowed))}"
            for field, allowed in choices.items()
            if getattr(self, field) not in get_args(allowed)
        ]
        bounds = {
            "clip_low": (0.0 <= self.clip_low < 1.0, "in [0, 1)"),
            "clip_high": (self.clip_high >= 0.0, ">= 0"),
            "kl_beta": (self.kl_beta >= 0.0, ">= 0"),
            "updates_per_rollout": (self.updates_per_rollout >= 1, ">= 1"),
            "std_epsilon": (self.std_epsilon >= 0.0, ">= 0"),
            "dual_clip": (self.dual_clip is None or self.dual_clip > 1.0 + self.clip_high, "null or > 1 + clip_high"),
            "correction_cap": (self.correction_cap > 0.0, "> 0"),
        }
        faults += [f"{field}={getattr(self, field)} must be {want}" for field, (ok, want) in bounds.items() if not ok]
        if faults:
            raise ValueError(f"objective '{self.name}': {'; '.join(faults)}")

    def logp_temperature(self, sampling_temperature: float) -> float:
        """What to divide the logits by in every pass whose log-probabilities go into ratio and KL."""
        return sampling_temperature if self.ratio_temperature == "sampling" else 1.0


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    spec: ObjectiveSpec,
    *,
    sampled_logp: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss **sum** of some rows of an update, and sums for its statistics.

    ``logp`` (differentiated), ``old_logp`` (policy that sampled, as training computes it), ``ref_logp`` and
    ``sampled_logp`` (of the distribution drawn from) are [N, T], ``advantages`` [N], ``mask`` bool [N, T], True on the
    tokens that count (``loss_mask``). What masked positions hold, NaN included, has no influence.
    Add the sums of all micro-batches and divide once by the update's summed ``denominator``.

    Statistics are sums to divide by ``tokens``: ``ratio``, ``abs_log_ratio`` (0 in the first update on a rollout, which
    defines ``old_logp``), ``clip_low``, ``clip_high`` and, with a dual clip, ``dual_clipped`` (tokens whose gradient
    that clip cuts), ``kl`` (only with a reference), ``mismatch`` (``|old - sampled|``), and with a correction
    ``correction`` and ``correction_capped``.
    Raises ValueError on mismatched shapes, and when ``kl_beta`` is positive without a reference or a correction is
    asked for without ``sampled_logp``.
    Source: Schulman et al. 2017 (clip), Ye et al. 2020 (dual clip), Shao et al. 2024 (GRPO), Yu et al. 2025 (asymmetric
    clip), Liu et al. 2025 (Dr. GRPO), Zheng et al. 2025 (sequence ratio), Yao et al. 2025 (truncated correction).
    """
    _check(logp, old_logp, ref_logp, sampled_logp, advantages, mask, spec)
    logp, old_logp = _fill(logp, mask), _fill(old_logp, mask).detach()  # [N, T]
    log_ratio = logp - old_logp  # [N, T]
    ratio = _exp(_ratio_exponent(log_ratio, mask, spec))  # [N, T]
    gain = advantages.detach()[:, None]  # [N, 1]
    loss = -_surrogate(ratio, gain, spec)  # [N, T]
    sums = {
        "tokens": mask,
        "ratio": ratio,
        "abs_log_ratio": log_ratio.abs(),
        "clip_low": (gain < 0) & (ratio < 1.0 - spec.clip_low),
        "clip_high": (gain > 0) & (ratio > 1.0 + spec.clip_high),
    }
    if spec.dual_clip is not None:
        sums["dual_clipped"] = (gain < 0) & (ratio > spec.dual_clip)
    if sampled_logp is not None:
        gap = old_logp - _fill(sampled_logp, mask).detach()  # [N, T]
        sums["mismatch"] = gap.abs()
        if spec.correction != "none":
            weight = _correction(gap, spec)  # [N, T]
            sums |= {"correction": weight, "correction_capped": weight >= spec.correction_cap}
            loss = loss * weight
    if ref_logp is not None:
        kl = kl_divergence(logp, _fill(ref_logp, mask).detach(), spec.kl_estimator)  # [N, T]
        sums["kl"] = kl
        loss = loss + spec.kl_beta * (ratio * kl if spec.kl_ratio_factor else kl)

    stats = {name: _fill(values.detach().to(loss.dtype), mask).sum() for name, values in sums.items()}
    rows = _fill(loss, mask).sum(dim=1)  # [N]
    if spec.normaliser == "sequence_mean":
        rows = rows / mask.sum(dim=1).clamp(min=1)
    return rows.sum(), stats


def loss_mask(mask: Tensor, spec: ObjectiveSpec, *, finished: Tensor, zero_variance: Tensor) -> Tensor:
    """The tokens [N, T] the loss counts: the completions' own ``mask`` without the rows that ``spec`` leaves out.

    ``finished`` bool [N]: a stop token ended the completion; ``zero_variance`` bool [N]: its whole group earned one
    reward. Rows are emptied, never dropped: every rank keeps its number of backward passes.
    Example: mask [[1, 1], [1, 0]], finished [False, True], truncated="mask" gives [[0, 0], [1, 0]].
    """
    counts = torch.ones_like(finished)  # [N]
    if spec.truncated == "mask":
        counts = counts & finished
    if spec.zero_variance == "mask":
        counts = counts & ~zero_variance
    return mask & counts[:, None]


def denominator(mask: Tensor, spec: ObjectiveSpec, max_completion_length: int) -> Tensor:
    """What the loss sum of these rows is divided by, a float scalar that adds up over micro-batches and ranks.

    Rows without a single token count for nothing, so the sum is 0 where no row counts: divide by at least 1. Where
    gradients are averaged over ranks, sum this over ranks and multiply the loss by their number.
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


def _surrogate(ratio: Tensor, gain: Tensor, spec: ObjectiveSpec) -> Tensor:
    """The clipped gain [N, T] to maximise."""
    clipped = ratio.clamp(1.0 - spec.clip_low, 1.0 + spec.clip_high)
    surrogate = torch.minimum(ratio * gain, clipped * gain)
    if spec.dual_clip is None:
        return surrogate
    return torch.where(gain < 0, torch.maximum(surrogate, spec.dual_clip * gain), surrogate)


def _correction(gap: Tensor, spec: ObjectiveSpec) -> Tensor:
    """The weight old / sampled [N, T], truncated, from the difference of their log-probabilities (0 where masked)."""
    if spec.correction == "sequence":
        gap = gap.sum(dim=1, keepdim=True).expand_as(gap)
    return gap.exp().clamp(max=spec.correction_cap)


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
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor | None,
    sampled_logp: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    spec: ObjectiveSpec,
) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, not {mask.dtype}: pass mask.bool()")
    given = {"logp": logp, "old_logp": old_logp, "ref_logp": ref_logp, "sampled_logp": sampled_logp, "mask": mask}
    shapes = {name: tuple(values.shape) for name, values in given.items() if values is not None}
    if logp.dim() != 2 or len(set(shapes.values())) != 1 or advantages.shape != logp.shape[:1]:
        raise ValueError(f"need [N, T] for {shapes} and [N] for advantages {tuple(advantages.shape)}")
    if spec.kl_beta > 0 and ref_logp is None:
        raise ValueError(f"objective '{spec.name}' has kl_beta={spec.kl_beta}: pass ref_logp, or set kl_beta=0")
    if spec.correction != "none" and sampled_logp is None:
        raise ValueError(
            f"objective '{spec.name}' has correction={spec.correction}: pass sampled_logp, or set correction=none"
        )


def zero_variance(rewards: Tensor) -> Tensor:
    """True [B] where all completions of a group [B, G] have one reward, up to rounding: the group teaches nothing."""
    _check_rewards(rewards)
    size = rewards.abs().amax(dim=1).clamp(min=1.0)  # [B]
    return rewards.amax(dim=1) - rewards.amin(dim=1) <= TOLERANCE * size  # [B]


def group_advantages(rewards: Tensor, *, scale: Scale, epsilon: float = 0.0) -> Tensor:
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


def _check_rewards(rewards: Tensor) -> None:
    if rewards.dim() != 2 or not rewards.is_floating_point():
        raise ValueError(f"rewards must be float [B, G], one row a group, not {rewards.dtype} {tuple(rewards.shape)}")
    bad = (~torch.isfinite(rewards)).nonzero().tolist()
    if bad:
        group, member = bad[0]
        raise ValueError(
            f"reward {rewards[group, member].item()} in group {group}, completion {member}: must be finite"
        )
