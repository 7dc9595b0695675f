"""GRPO: sample a group of answers to each study, rank them by reward, and move the policy towards the better ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from chexreason.data.batches import Batch
from chexreason.grpo.objective import ObjectiveSpec, denominator, policy_loss
from chexreason.grpo.rollout import Rollout, collect, rollout_stats, study_chunks
from chexreason.labels.schema import LabelSet
from chexreason.modules.base import MakeOptimizer, MakeScheduler, PolicyModule
from chexreason.policy.generate import Sampling
from chexreason.policy.logprobs import completion_scores
from chexreason.policy.policy import Policy
from chexreason.rewards.base import Reward, Stateful


class GRPOModule(PolicyModule):
    """Manual optimisation of the clipped group objective (paper, section on GRPO).

    ``group_size`` completions of each study, ``sampling`` says how they are drawn, ``micro_studies`` studies share a
    backward pass, ``max_grad_norm`` clips the update. The reference policy is the model without the adapter under
    training: the merged SFT policy. Raises ValueError when dropout is active in the policy, which would make the
    sampled and the trained distribution differ.
    """

    def __init__(
        self,
        policy: Policy,
        label_set: LabelSet,
        grammar: str,
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
    ) -> None:
        super().__init__(
            policy,
            label_set,
            grammar,
            make_optimizer=make_optimizer,
            make_scheduler=make_scheduler,
            max_new_tokens=max_new_tokens,
        )
        self.automatic_optimization = False
        self.reward, self.objective, self.sampling = reward, objective, sampling
        self.group_size, self.micro_studies, self.max_grad_norm = group_size, micro_studies, max_grad_norm
        self.seed = seed
        if group_size < 2:
            raise ValueError(f"phase.group_size={group_size}: a group of one has no advantage; use 2 or more")
        if live := [n for n, m in policy.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]:
            raise ValueError(f"dropout in {live[0]}: rollout and update would disagree; set adapter.dropout=0")

    def n_updates(self) -> int:
        return super().n_updates() * self.objective.updates_per_rollout

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """One rollout, then ``updates_per_rollout`` optimiser steps on it; returns its ``rewards`` [B, G]."""
        rollout = collect(
            self.policy,
            batch,
            sampling=self.sampling,
            group_size=self.group_size,
            reward=self.reward,
            objective=self.objective,
            label_set=self.label_set,
            grammar=self.grammar,
            seed=self.seed,
            step=self.trainer.fit_loop.epoch_loop.total_batch_idx,
            micro_studies=self.micro_studies,
        )
        totals: dict[str, float] = {}
        for _ in range(self.objective.updates_per_rollout):
            for name, value in self._update(rollout).items():
                totals[name] = totals.get(name, 0.0) + value
        stats = rollout_stats(rollout) | _per_token(totals)
        self.log_dict({f"train/{k}": v for k, v in stats.items()}, batch_size=len(batch), sync_dist=True)
        self.log("progress/reward", stats["reward"], prog_bar=True, logger=False, batch_size=len(batch))
        return {"rewards": rollout.rewards}

    def _update(self, rollout: Rollout) -> dict[str, float]:
        """One optimiser step on the rollout, in micro-batches; returns sums over tokens and the gradient norm."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        whole = self._global(denominator(rollout.loss_mask, self.objective, self.sampling.max_new_tokens))
        sums: dict[str, float] = {"updates": 1.0}
        for studies in study_chunks(len(rollout.prompts), self.micro_studies):
            part = rollout.of(studies)
            scores = completion_scores(
                self.policy,
                part.prompts,
                part.ids,
                part.mask,
                group_size=self.group_size,
                temperature=self.objective.logp_temperature(self.sampling.temperature),
            )
            loss_sum, stats = policy_loss(
                scores.logp,
                part.old_logp,
                part.ref_logp,
                part.advantages,
                part.loss_mask,
                self.objective,
                sampled_logp=part.sampled_logp,
            )
            self.manual_backward(loss_sum / whole)
            entropy = {"entropy": scores.entropy[part.loss_mask].sum(), "loss": loss_sum.detach() / whole}
            for name, value in (stats | entropy).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        parameters = list(self.trainable().values())
        sums["grad_norm"] = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        scheduler.step()  # type: ignore[union-attr]
        return sums

    def _global(self, local: torch.Tensor) -> torch.Tensor:
        """The update's divisor: summed over ranks, divided by their number because gradients are averaged."""
        if self.trainer.world_size == 1:
            return local.clamp(min=1.0)  # no row may count
        return self.all_gather(local).sum().clamp(min=1.0) / self.trainer.world_size

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if isinstance(self.reward, Stateful):
            checkpoint["reward"] = self.reward.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if isinstance(self.reward, Stateful):
            self.reward.load_state_dict(checkpoint["reward"])


def _per_token(sums: dict[str, float]) -> dict[str, float]:
    """Means over tokens (and over updates for what is counted once an update)."""
    tokens, updates = max(sums.pop("tokens"), 1.0), sums.pop("updates")
    per_update = {name: sums.pop(name) / updates for name in ("grad_norm", "loss")}
    rename = {"clip_low": "clip_fraction_low", "clip_high": "clip_fraction_high"}
    means = {rename.get(name, name): value / tokens for name, value in sums.items()}
    means["clip_fraction"] = means["clip_fraction_low"] + means["clip_fraction_high"]
    return means | per_update
