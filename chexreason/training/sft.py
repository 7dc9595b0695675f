"""Supervised fine-tuning on reasoning traces: cross-entropy on the assistant's tokens and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chexreason.data.batches import Batch
from chexreason.model.generate import key_seed
from chexreason.model.logprobs import TokenScores, completion_scores
from chexreason.training.policy_module import PolicyModule, token_means
from chexreason.types import Prediction


class SFTModule(PolicyModule):
    """Automatic optimisation of the answers' log-likelihood (paper, section on supervised fine-tuning).

    The loss of an update is the mean over all its answer tokens, however it is cut into batches: each batch divides
    its sum by the update's token count, and Lightning's own division by the accumulation is undone. Dropout masks are a
    function of (seed, batch, rank) alone, so a resumed run draws those of an uninterrupted one.
    """

    def _scores(self, batch: Batch) -> TokenScores:
        if batch.answer_ids is None or batch.answer_mask is None:
            raise ValueError(f"study {batch.samples[0].study.study_id} has no answer to learn from")
        prompts = self.policy.with_features(batch.prompts)
        return completion_scores(self.policy, prompts, batch.answer_ids, batch.answer_mask, shared=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's share of the update's mean token loss."""
        torch.manual_seed(key_seed((self.seed, self.trainer.fit_loop.epoch_loop.total_batch_idx, self.global_rank)))
        scores = self._scores(batch)
        loss_sum = -scores.logp.sum()
        loss, accuracy, _ = token_means(loss_sum.detach(), scores.top1, batch.answer_mask)
        values = {"train/loss": loss, "train/token_accuracy": accuracy}
        self.log_dict(values, batch_size=len(batch), on_step=True, on_epoch=False)
        self.log("progress/loss", loss, batch_size=len(batch), prog_bar=True, logger=False)
        return loss_sum / batch.update_tokens * self.trainer.accumulate_grad_batches

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[Prediction]:
        """Predictions, none of studies held back; and, where answers exist, loss and accuracy: they stop the run."""
        if batch.answer_ids is not None:
            scores = self._scores(batch)
            loss, accuracy, n = token_means(-scores.logp.sum(), scores.top1, batch.answer_mask)
            values: dict[str, Any] = {"val/loss": loss, "val/token_accuracy": accuracy}
            # weighted by tokens, so that the mean over batches is the mean over tokens; Lightning divides the weights
            # by the number of ranks and drops the remainder
            weight = n * self.trainer.world_size
            self.log_dict(values, batch_size=weight, on_epoch=True, add_dataloader_idx=False, sync_dist=True)
        if dataloader_idx == len(self.trainer.datamodule.val_names):  # type: ignore[attr-defined]
            return []  # held back: to write answers would double the cost of a validation
        return super().validation_step(batch, batch_idx, dataloader_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
