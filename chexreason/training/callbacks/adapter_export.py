"""The adapter in plain PEFT layout: the best one by a watched metric, and the last one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L

from chexreason.model.adapters import check_sound, save_adapter
from chexreason.model.policy import Policy

log = logging.getLogger(__name__)


def score_of(trainer: L.Trainer, monitor: str) -> float | None:
    """The monitored value; None where it is not finite, e.g. macro_f1_supported without a positive mark: no score."""
    value = float(trainer.callback_metrics.get(monitor, math.nan))
    return value if math.isfinite(value) else None


class EarlyStopping(L.pytorch.callbacks.EarlyStopping):
    """Lightning's, by its name in checkpoints: a validation without a score neither ends a run nor counts."""

    def _run_early_stopping_check(self, trainer: L.Trainer) -> None:
        if score_of(trainer, self.monitor) is not None:
            super()._run_early_stopping_check(trainer)


class AdapterExport(L.Callback):
    """Writes ``<folder>/best`` whenever ``monitor`` improves and ``<folder>/last`` when training ends.

    Earlier adapters are stacked in, so each folder is complete over the base model. ``card`` is written beside the
    weights. Raises KeyError when ``monitor`` is never logged.
    """

    def __init__(self, folder: str, monitor: str, mode: Literal["min", "max"], card: Mapping[str, object]) -> None:
        self.folder, self.monitor, self.mode, self.card = Path(folder), monitor, mode, dict(card)
        self.best: float | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return  # nothing is trained yet
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(k for k in trainer.callback_metrics if "f1/" not in k))
            raise KeyError(f"phase.monitor={self.monitor} is not logged; logged: {known}")
        if (value := score_of(trainer, self.monitor)) is None:
            return
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        if better and trainer.is_global_zero:
            self._save(pl_module, "best", trainer.global_step, value)
        self.best = value if better else self.best

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            if self.best is None:
                folder = self.folder / "best"
                log.warning(
                    "no validation scored %s before the end: %s is not written, take last", self.monitor, folder
                )
            self._save(pl_module, "last", trainer.global_step, score_of(trainer, self.monitor))

    def _save(self, pl_module: L.LightningModule, which: str, step: int, value: float | None) -> None:
        card = {**self.card, "step": step, "monitor": self.monitor, "value": value}
        save_adapter(cast(Policy, pl_module.policy), self.folder / which, card)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        if self.best is not None:
            check_sound(self.folder / "best")  # it may stay the best, and is then not written again
