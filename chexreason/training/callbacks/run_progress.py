"""The progress of a whole run: batches done of all, what is left, and the loss or reward of the last one."""

from __future__ import annotations

import math
from typing import Any

import lightning as L

from chexreason.progress import Meter


class RunProgress(L.Callback):
    """One meter from the first batch to the last, over all epochs and validations; the first rank alone shows it.

    ``name`` stands before the count. A run whose epochs have no limit ends with its optimiser steps, of which
    ``updates`` are made a batch (GRPO's updates per rollout).
    """

    def __init__(self, name: str, updates: int = 1) -> None:
        self.name, self.updates = name, updates
        self._meter: Meter | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            self._meter = Meter(self._batches(trainer), self.name, done).__enter__()

    def _batches(self, trainer: L.Trainer) -> int:
        """Batches of the whole run: to the limit of epochs or of optimiser steps, which of them comes first."""
        by_steps = trainer.max_steps * trainer.accumulate_grad_batches / self.updates
        limits = (trainer.num_training_batches * (trainer.max_epochs or -1), by_steps)
        return math.ceil(min((limit for limit in limits if limit > 0), default=0))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        logged = {k.partition("/")[2]: float(v) for k, v in trainer.progress_bar_metrics.items() if "progress/" in k}
        self._show(trainer, ", ".join(f"{name} {value:.3g}" for name, value in logged.items()))

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._show(trainer, f"validation, set {dataloader_idx + 1} of {len(trainer.num_val_batches)}")

    def _show(self, trainer: L.Trainer, note: str) -> None:
        if self._meter is not None:
            self._meter(trainer.fit_loop.epoch_loop.total_batch_idx + 1, note)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._meter is not None:
            self._meter.__exit__(None, None, None)
            self._meter = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)
