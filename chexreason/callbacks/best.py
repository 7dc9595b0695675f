"""What a checkpoint is chosen by beside the home score: the worst hospital, the mean, or home under a limit on loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

CHOSEN_BY = ("worst", "mean", "constrained")


def transfer_rules(
    f1: Mapping[str, float], baseline: Mapping[str, float], home: str, max_loss: float
) -> dict[str, float]:
    """The rules' values from the macro-F1 ``f1`` of each hospital: ``worst``, ``mean`` and ``constrained``.

    ``constrained`` is the score at ``home`` where no other hospital has lost more than ``max_loss`` against
    ``baseline``; else it is minus the largest excess, so every checkpoint within the limit beats every one beyond it.
    """
    losses = [baseline[name] - value for name, value in f1.items() if name != home]
    excess = max(losses, default=0.0) - max_loss
    return {
        "worst": min(f1.values()),
        "mean": sum(f1.values()) / len(f1),
        "constrained": f1[home] if excess <= 0 else -excess,
    }


class TransferRules(L.Callback):
    """Logs ``val/worst/macro_f1``, ``val/mean/macro_f1`` and ``val/constrained/macro_f1`` after each validation.

    Stands behind the label-F1 callback, whose ``val/<set>/macro_f1`` it reads, and before those that choose by it.
    ``baseline`` maps each hospital to the macro-F1 that losses count from; None takes the first validation of the run,
    which a resumed run keeps. Raises ValueError on a negative ``max_loss``, on a home that is not validated and on a
    baseline that lacks a hospital.
    """

    def __init__(self, home: str, *, max_loss: float = 0.02, baseline: Mapping[str, float] | None = None) -> None:
        if max_loss < 0:
            raise ValueError(f"callbacks.transfer.max_loss={max_loss}: use 0 or more, in macro-F1")
        self.home, self.max_loss = home, max_loss
        self.baseline = None if baseline is None else dict(baseline)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        names = trainer.datamodule.val_names  # type: ignore[attr-defined]
        if self.home not in names:
            raise ValueError(f"data.home={self.home} is not validated: add it to data.val={list(names)}")
        if taken := sorted({*CHOSEN_BY} & {*names}):
            raise ValueError(f"data.val holds a set called {', '.join(taken)}, which names a rule here: rename it")
        if self.baseline is not None and (missing := [name for name in names if name not in self.baseline]):
            raise ValueError(f"callbacks.transfer.baseline lacks {', '.join(missing)}: give each set of data.val one")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        names = trainer.datamodule.val_names  # type: ignore[attr-defined]
        f1 = {name: float(trainer.callback_metrics[f"val/{name}/macro_f1"]) for name in names}
        if self.baseline is None:
            self.baseline = f1
        values = transfer_rules(f1, self.baseline, self.home, self.max_loss)
        # every rank has read the same scores; Lightning wants to be told so
        figures = {f"val/{rule}/macro_f1": value for rule, value in values.items()}
        pl_module.log_dict(figures, add_dataloader_idx=False, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.baseline = state_dict["baseline"]
