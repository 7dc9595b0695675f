"""GRPO: sample a group of answers to each study, rank them by reward, and move the policy towards the better ones."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from chexreason.data.batches import Batch
from chexreason.grpo.objective import ObjectiveSpec, denominator, policy_loss
from chexreason.grpo.rollout import Rollout, RolloutSpec, collect, rollout_stats
from chexreason.model.generate import SHARED_PREFIX, Engine, Sampling
from chexreason.model.logprobs import completion_scores, study_chunks
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat
from chexreason.preflight.settings import dropout_rates, refuse, rollout_faults
from chexreason.rewards.base import AcrossRanks, Reward, Stateful
from chexreason.training.policy_module import MakeOptimizer, MakeScheduler, PolicyModule


class GRPOModule(PolicyModule):
    """Manual optimisation of the clipped group objective (paper, section on GRPO).

    ``group_size`` completions of each study, ``sampling`` says how they are drawn and ``engine`` by whom,
    ``micro_studies`` studies share a backward pass, ``max_grad_norm`` clips the update. The reference policy is the
    model without the adapter under training: the SFT policy. Raises ValueError when dropout is active in the
    policy, which would make the sampled and the trained distribution differ, when gradient checkpointing is on, and on
    groups of one or greedy sampling.
    """

    def __init__(
        self,
        policy: Policy,
        answer_format: AnswerFormat,
        *,
        reward: Reward,
        objective: ObjectiveSpec,
        sampling: Sampling,
        group_size: int,
        micro_studies: int,
        max_grad_norm: float,
        seed: int,
        make_optimizer: MakeOptimizer,
        make_scheduler: MakeScheduler,
        max_new_tokens: int,
        engine: Engine = SHARED_PREFIX,
    ) -> None:
        super().__init__(
            policy,
            answer_format,
            make_optimizer=make_optimizer,
            make_scheduler=make_scheduler,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
        self.automatic_optimization = False
        self.spec = RolloutSpec(answer_format, sampling, group_size, reward, objective, seed, micro_studies, engine)
        self.max_grad_norm = max_grad_norm
        refuse(
            rollout_faults(
                group_size=group_size,
                temperature=sampling.temperature,
                checkpointing=bool(getattr(policy.base, "is_gradient_checkpointing", False)),
                dropout=dropout_rates(policy),
            )
        )

    def n_updates(self) -> int:
        """Optimiser steps of the run, which Lightning counts in steps where it is given in steps, else in rollouts."""
        by_epochs = self.trainer.max_epochs != -1
        return super().n_updates() * (self.spec.objective.updates_per_rollout if by_epochs else 1)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """One rollout, then ``updates_per_rollout`` optimiser steps on it; returns its ``rewards`` [B, G]."""
        spec = self.spec
        if self.trainer.world_size > 1 and isinstance(spec.reward, Stateful):
            spec = replace(spec, reward=AcrossRanks(spec.reward, spec.group_size))
        rollout = collect(self.policy, batch, spec, step=self.trainer.fit_loop.epoch_loop.total_batch_idx)
        totals: dict[str, float] = {}
        old_logp: list[torch.Tensor] = []
        for _ in range(spec.objective.updates_per_rollout):
            for name, value in self._update(rollout, old_logp).items():
                totals[name] = totals.get(name, 0.0) + value
        stats = self._over_ranks(rollout_stats(rollout) | self._gap(rollout, old_logp)) | _per_token(
            self._over_ranks(totals)
        )
        self.log_dict({f"train/{k}": v for k, v in stats.items()}, batch_size=len(batch))
        self.log("progress/reward", stats["reward"], prog_bar=True, logger=False, batch_size=len(batch))
        return {"rewards": rollout.rewards}

    def _update(self, rollout: Rollout, old_logp: list[torch.Tensor]) -> dict[str, float]:
        """One optimiser step on the rollout, in micro-batches; returns sums over tokens and the gradient norm.

        ``old_logp`` holds, by micro-batch, the log-probabilities of the policy that sampled; the first update fills it.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        whole = self._global(denominator(rollout.loss_mask, self.spec.objective, self.spec.sampling.max_new_tokens))
        sums: dict[str, float] = {"updates": 1.0}
        chunks = study_chunks(len(rollout.prompts), self.spec.micro_studies)
        for i, studies in enumerate(chunks):
            part = rollout.of(studies)
            scores = completion_scores(
                self.policy,
                part.prompts,
                part.ids,
                part.mask,
                group_size=self.spec.group_size,
                temperature=self.spec.logp_temperature,
            )
            if len(old_logp) == i:
                old_logp.append(scores.logp.detach())
            loss_sum, stats = policy_loss(
                scores.logp,
                old_logp[i],
                part.ref_logp,
                part.advantages,
                part.loss_mask,
                self.spec.objective,
                sampled_logp=part.sampled_logp,
            )
            with self._exchange(last=studies is chunks[-1]):
                self.manual_backward(loss_sum / whole)
            stats |= {"loss": loss_sum.detach() / whole, "sampled_tokens": part.mask.sum()}
            stats["entropy"] = scores.entropy[part.mask].sum()  # of flat groups as well: they may have collapsed
            for name, value in stats.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        parameters = list(self.trainable().values())
        sums["grad_norm"] = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        scheduler.step()  # type: ignore[union-attr]
        return sums

    def _gap(self, rollout: Rollout, old_logp: list[torch.Tensor]) -> dict[str, float]:
        """How far training and sampling loop are apart on a token under the same distribution: rounding alone."""
        if rollout.rollout_logp is None:
            return {}
        gap, start = 0.0, 0
        for old in old_logp:  # consecutive rows, cut to their longest
            part = slice(start, start + old.shape[0]), slice(old.shape[1])
            gap += float(((old - rollout.rollout_logp[part]).abs() * rollout.mask[part]).sum())
            start += old.shape[0]
        return {"rollout_gap": gap / int(rollout.mask.sum())}

    def _global(self, local: torch.Tensor) -> torch.Tensor:
        """The update's divisor: summed over ranks, divided by their number because gradients are averaged."""
        whole = self.trainer.strategy.reduce(local, reduce_op="sum")
        return whole.clamp(min=1.0) / self.trainer.world_size  # no row may count

    def _over_ranks(self, values: dict[str, float]) -> dict[str, float]:
        """Each value's mean over ranks: sums stay in proportion, and what is decided by them is decided alike."""
        if self.trainer.world_size == 1:
            return values
        own = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        return dict(zip(values, self.trainer.strategy.reduce(own, reduce_op="mean").tolist(), strict=True))

    def _exchange(self, *, last: bool) -> AbstractContextManager[None]:
        """Ranks average their gradients once an update, in its last backward pass."""
        strategy = self.trainer.strategy
        return nullcontext() if last or not isinstance(strategy, DDPStrategy) else strategy.block_backward_sync()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if isinstance(self.spec.reward, Stateful):
            checkpoint["reward"] = self.spec.reward.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if isinstance(self.spec.reward, Stateful):
            self.spec.reward.load_state_dict(checkpoint["reward"])


def _per_token(sums: dict[str, float]) -> dict[str, float]:
    """Means over the tokens that count, over updates, and of the entropy over all tokens sampled.

    Where no token counts, a mean over them has no value: NaN, since Lightning would show one left out as it was before.
    """
    tokens, updates, sampled = (sums.pop(name) for name in ("tokens", "updates", "sampled_tokens"))
    known = {name: sums.pop(name) / updates for name in ("grad_norm", "loss")}
    known["entropy"] = sums.pop("entropy") / sampled
    clipped = {"clip_low": "clip_fraction_low", "clip_high": "clip_fraction_high", "dual_clipped": "clip_fraction_dual"}
    means = {clipped.get(name, name): value / (tokens or math.nan) for name, value in sums.items()}
    means["clip_fraction"] = sum(means.get(name, 0.0) for name in clipped.values())
    return means | known
