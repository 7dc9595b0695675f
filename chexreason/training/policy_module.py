"""What both training phases share: validation by the final evaluation's path, and adapter-only checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from chexreason.data.batches import Batch
from chexreason.model.generate import predict_batch
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat
from chexreason.preflight.settings import precision_faults, refuse
from chexreason.types import Prediction

log = logging.getLogger(__name__)
BAD_UPDATES = 5  # a stray one in bfloat16 is survived, a run that has diverged is ended

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer, int], LRScheduler]


class PolicyModule(L.LightningModule):
    """A policy under training, with greedy validation on every data set.

    ``make_optimizer`` takes the trainable parameters, ``make_scheduler`` the optimizer and the number of optimiser
    steps; ``seed`` is what the random numbers of training are derived from. Checkpoints hold the trainable weights
    only; loading checks their names, since a non-strict load would swallow a renamed prefix.
    """

    def __init__(
        self,
        policy: Policy,
        answer_format: AnswerFormat,
        *,
        make_optimizer: MakeOptimizer,
        make_scheduler: MakeScheduler,
        max_new_tokens: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.answer_format = answer_format
        self.make_optimizer, self.make_scheduler = make_optimizer, make_scheduler
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.strict_loading = False
        self._bad_updates = 0
        if not self.trainable():
            raise ValueError("nothing to train: attach an adapter to the policy first")

    def trainable(self) -> dict[str, nn.Parameter]:
        """The weights under training, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def n_updates(self) -> int:
        """Optimiser steps of the whole run; what the schedule is laid over."""
        return int(self.trainer.estimated_stepping_batches)

    def setup(self, stage: str) -> None:
        """Refuse (ValueError) a precision of the trainer in which the policy is another one than in evaluation."""
        refuse(precision_faults(self.trainer.precision))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.trainable().values())
        scheduler = self.make_scheduler(optimizer, self.n_updates())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leaves out an update whose gradient is not finite, which would destroy the adapter for good.

        Raises FloatingPointError after ``BAD_UPDATES`` of them in a row. Ranks decide alike: gradients are averaged.
        """
        gradients = [p.grad for p in self.trainable().values() if p.grad is not None]
        if bool(nn.utils.get_total_norm(gradients).isfinite()):  # one look at the device, not one a weight
            self._bad_updates = 0
            return
        optimizer.zero_grad(set_to_none=True)  # parameters without a gradient stay as they are
        self._bad_updates += 1
        log.warning("the gradient at step %d is not finite: this update is left out", self.trainer.global_step)
        if self._bad_updates >= BAD_UPDATES:
            raise FloatingPointError(
                f"{BAD_UPDATES} updates in a row, up to step {self.trainer.global_step}, had a gradient that is not "
                f"finite: lower phase.lr, or train in another precision; the last checkpoint is from before them"
            )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[Prediction]:
        """Greedy predictions of a batch; the label-F1 callback scores them."""
        return predict_batch(self.policy, batch, self.answer_format, self.max_new_tokens)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights under training: a quantised base model would be packed anew at every step."""
        return {name: p.detach() for name, p in self.trainable().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        differ = set(checkpoint["state_dict"]) ^ set(self.trainable())
        if differ:
            raise ValueError(
                f"the checkpoint's weights are not this run's: {len(differ)} names differ, e.g. {min(differ)}; "
                "resume with the adapter config it was trained with"
            )


def token_means(loss_sum: Tensor, correct: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """Loss and accuracy per token, and the number of tokens, of masked sums."""
    n = int(mask.sum())
    return loss_sum / max(n, 1), correct.sum() / max(n, 1), n


def scheduled(optimizer: Optimizer, n_steps: int, *, kind: str = "cosine", warmup: float = 0.05) -> LRScheduler:
    """A schedule over ``n_steps`` optimiser steps, the first ``warmup`` share of them rising from 0.

    ``kind`` is any name transformers knows ("cosine", "linear", "constant_with_warmup", ...). Raises ValueError for a
    warm-up outside 0..1.
    """
    if not 0 <= warmup <= 1:
        raise ValueError(f"optim.scheduler.warmup={warmup} is a share of the run: use 0..1")
    scheduler: LRScheduler = get_scheduler(kind, optimizer, round(warmup * n_steps), n_steps)
    return scheduler
