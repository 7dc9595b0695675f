"""One rollout: sample a group of answers to every study, score them, and keep what the update needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from chexreason.data.batches import Batch, EncodedPrompts
from chexreason.grpo.objective import ObjectiveSpec, group_advantages, loss_mask, zero_variance
from chexreason.model.generate import SHARED_PREFIX, Engine, Sampling, read_completions
from chexreason.model.logprobs import scored_by_chunks
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat
from chexreason.rewards.base import Reward, score
from chexreason.rewards.collapse import dominance
from chexreason.types import Completion


@dataclass(frozen=True)
class Rollout:
    """B studies with G completions each; row ``b * G + g`` of every [N] or [N, T] tensor is completion g of study b.

    ``sampled_logp`` is under the distribution drawn from; ``rollout_logp`` under the whole one, as the sampling loop
    computed it (None where it did not, or at another temperature); ``ref_logp`` under the reference (None when the
    objective has no KL term); ``rewards`` is [B, G], ``parts`` holds the reward's named parts [N], ``advantages`` is
    [N].
    """

    prompts: EncodedPrompts
    ids: Tensor
    mask: Tensor
    loss_mask: Tensor
    sampled_logp: Tensor
    rollout_logp: Tensor | None
    ref_logp: Tensor | None
    rewards: Tensor
    parts: dict[str, Tensor]
    advantages: Tensor
    completions: tuple[Completion, ...]

    @property
    def group_size(self) -> int:
        return self.rewards.shape[1]

    def of(self, studies: Sequence[int]) -> Rollout:
        """The rollout of some of its studies, cut to the longest of their completions."""
        g = self.group_size
        rows = [study * g + k for study in studies for k in range(g)]
        mask = self.mask[rows]
        cut = slice(int(mask.sum(1).max()))
        return Rollout(
            prompts=self.prompts.select(studies),
            ids=self.ids[rows, cut],
            mask=mask[:, cut],
            loss_mask=self.loss_mask[rows, cut],
            sampled_logp=self.sampled_logp[rows, cut],
            rollout_logp=None if self.rollout_logp is None else self.rollout_logp[rows, cut],
            ref_logp=None if self.ref_logp is None else self.ref_logp[rows, cut],
            rewards=self.rewards[list(studies)],
            parts={name: values[rows] for name, values in self.parts.items()},
            advantages=self.advantages[rows],
            completions=tuple(self.completions[row] for row in rows),
        )


@dataclass(frozen=True)
class RolloutSpec:
    """How rollouts are made: what stays the same from step to step.

    ``group_size`` completions of each study are drawn by ``engine`` under ``sampling``, read by ``answer_format``,
    scored by ``reward`` and ranked as ``objective`` says. The reference pass runs ``micro_studies`` studies at a time.
    """

    answer_format: AnswerFormat
    sampling: Sampling
    group_size: int
    reward: Reward
    objective: ObjectiveSpec
    seed: int
    micro_studies: int
    engine: Engine = SHARED_PREFIX

    @property
    def logp_temperature(self) -> float:
        """The temperature under which the objective takes log-probabilities."""
        return self.objective.logp_temperature(self.sampling.temperature)


def collect(policy: Policy, batch: Batch, spec: RolloutSpec, step: int) -> Rollout:
    """Sample, parse, score and rank a group of completions of each study of ``batch``.

    Images are encoded once for the whole step. A completion depends on (seed, step, study, k) alone. The
    log-probabilities of the policy that sampled, as training computes them, are the first update's own: in bfloat16
    those of the sampling loop, whose products have other shapes, are others.
    """
    prompts, objective, g = policy.with_features(batch.prompts), spec.objective, spec.group_size
    studies = [item.study for item in batch.samples]
    keys = [(spec.seed, step, study.study_id, k) for study in studies for k in range(g)]
    sampled = spec.engine.draw(policy, batch, prompts, spec.sampling, group_size=g, keys=keys)
    completions = read_completions(policy, sampled, studies, spec.answer_format)
    total, parts = score(spec.reward, completions, [s for s in studies for _ in range(g)], spec.answer_format.label_set)
    rewards = total.reshape(len(studies), g)  # [B, G]
    advantages = group_advantages(rewards, scale=objective.scale, epsilon=objective.std_epsilon).flatten()  # [N]
    temperature, ref_logp = spec.logp_temperature, None
    if objective.kl_beta > 0:
        with policy.reference():
            ref_logp = scored_by_chunks(
                policy,
                prompts,
                sampled.ids,
                sampled.mask,
                group_size=g,
                temperature=temperature,
                studies=spec.micro_studies,
            )
    flat = zero_variance(rewards).repeat_interleave(g).to(sampled.ids.device)  # [N]
    mask = sampled.mask.bool()  # [N, T]
    return Rollout(
        prompts=prompts,
        ids=sampled.ids,
        mask=mask,
        loss_mask=loss_mask(mask, objective, finished=sampled.finished, zero_variance=flat),
        sampled_logp=sampled.sampled_logp,
        rollout_logp=sampled.logp if temperature == spec.sampling.temperature else None,
        ref_logp=ref_logp,
        rewards=rewards,
        parts=parts,
        advantages=advantages.to(sampled.ids.device),
        completions=tuple(completions),
    )


def rollout_stats(rollout: Rollout) -> dict[str, float]:
    """What a dashboard shows of a rollout, as plain means: reward and its parts, length, failures, idle groups."""
    flat = rollout.rewards.flatten()
    distinct = [len({c.text for c in group}) for group in _groups(rollout)]
    stats = {
        "reward": float(flat.mean()),
        "reward_std": float(rollout.rewards.std(1).mean()) if rollout.group_size > 1 else 0.0,
        "zero_variance_groups": float(zero_variance(rollout.rewards).float().mean()),
        "completion_length": float(rollout.mask.sum(1).float().mean()),
        "truncated": sum(not c.finished for c in rollout.completions) / len(rollout.completions),
        "fail_rate": sum(not c.parsed.valid for c in rollout.completions) / len(rollout.completions),
        "distinct_completions": sum(distinct) / (len(distinct) * rollout.group_size),
        "label_dominance": dominance([c.parsed.labels for c in rollout.completions]),
    }
    return stats | {f"reward/{name}": float(values.mean()) for name, values in rollout.parts.items()}


def _groups(rollout: Rollout) -> list[Sequence[Completion]]:
    g = rollout.group_size
    return [rollout.completions[i : i + g] for i in range(0, len(rollout.completions), g)]
