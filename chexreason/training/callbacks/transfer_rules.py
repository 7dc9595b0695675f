"""What a checkpoint is chosen by beside the home score: the worst hospital, the mean, or home under a limit on loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

import lightning as L

from chexreason.statistics.predictions import VOCABULARY

log = logging.getLogger(__name__)

CHOSEN_BY = ("worst", "mean", "constrained")
_CONSTRAINED = "val/constrained/macro_f1"


def monitor_mode(monitor: str, mode: str | None) -> Literal["min", "max"]:
    """Whether a low or a high ``monitor`` is good: told by its name where ``mode`` is None.

    A loss and a rate of bad answers are to be low, an F1 and a reward high. Raises ValueError where ``mode`` says
    otherwise, and where it is None and the name tells nothing.
    """
    *_, last = parts = monitor.split("/")
    told: Literal["min", "max"] | None = None
    if last in ("loss", "fail_rate", *VOCABULARY):
        told = "min"
    elif {"f1", "reward"} & {*parts} or last.endswith(("_f1", "_f1_supported")):
        told = "max"
    if mode not in (None, "min", "max"):
        raise ValueError(f"phase.mode={mode}: use min, max or null, which goes by the name of phase.monitor")
    if mode is None and told is None:
        raise ValueError(
            f"phase.monitor={monitor} does not tell whether low or high is good: set phase.mode=min or max"
        )
    if mode is not None and told is not None and mode != told:
        raise ValueError(f"phase.mode={mode} would keep the worst phase.monitor={monitor}: leave phase.mode out")
    return told or ("min" if mode == "min" else "max")


def transfer_rules(
    f1: Mapping[str, float], baseline: Mapping[str, float], home: str, max_loss: float
) -> dict[str, float]:
    """The rules' values from the macro-F1 ``f1`` of each hospital, over one list of labels.

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

    Stands behind the label-F1 callback, whose ``val/<set>/f1/<label>`` it reads, and before those that choose by it.
    The rules compare hospitals, so their macro-F1 is over the labels that all sets of ``data.val`` judge; nothing is
    logged where there is none. ``baseline`` maps each hospital to the macro-F1, over these labels, that losses count
    from. None measures it: by a validation before training where ``monitor``, what the run chooses by, is the
    constrained rule, else by the run's first one; a resumed run keeps it. Raises ValueError on a negative ``max_loss``,
    on a home that is not validated, on a baseline that lacks a hospital, and where ``monitor`` is a rule that has no
    label to go by.
    """

    def __init__(
        self, home: str, monitor: str = "", *, max_loss: float = 0.02, baseline: Mapping[str, float] | None = None
    ) -> None:
        if max_loss < 0:
            raise ValueError(f"callbacks.transfer.max_loss={max_loss}: use 0 or more, in macro-F1")
        self.home, self.monitor, self.max_loss = home, monitor, max_loss
        self.baseline = None if baseline is None else dict(baseline)
        self.common = True  # False in a run that was begun when each set counted over its own labels

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        names = trainer.datamodule.val_names  # type: ignore[attr-defined]
        if self.home not in names:
            raise ValueError(f"data.home={self.home} is not validated: add it to data.val={list(names)}")
        if taken := sorted({*CHOSEN_BY} & {*names}):
            raise ValueError(f"data.val holds a set called {', '.join(taken)}, which names a rule here: rename it")
        if self.baseline is not None and (missing := [name for name in names if name not in self.baseline]):
            raise ValueError(f"callbacks.transfer.baseline lacks {', '.join(missing)}: give each set of data.val one")
        if self.baseline is None and self.monitor == _CONSTRAINED:
            trainer.num_sanity_val_steps = math.inf  # Lightning's validation before the first step, on all studies

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking and trainer.num_sanity_val_steps != math.inf:
            return  # a few batches are no score
        names = trainer.datamodule.val_names  # type: ignore[attr-defined]
        f1 = self._macro_f1(trainer.callback_metrics, names)
        if not f1 and self.monitor in {f"val/{rule}/macro_f1" for rule in CHOSEN_BY}:
            raise ValueError(f"phase.monitor={self.monitor}: no label is judged by all of data.val={list(names)}")
        if not f1:
            return  # nothing that could be compared
        if self.baseline is None:
            self.baseline = f1
            if trainer.sanity_checking:
                log.info("before training: %s", ", ".join(f"{name} macro_f1 {value:.3f}" for name, value in f1.items()))
        values = transfer_rules(f1, self.baseline, self.home, self.max_loss)
        # every rank has read the same scores; Lightning wants to be told so
        figures = {f"val/{rule}/macro_f1": value for rule, value in values.items()}
        pl_module.log_dict(figures, add_dataloader_idx=False, sync_dist=True)

    def _macro_f1(self, metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
        """Each hospital's macro-F1 over the labels that all judge; empty where there is no such label."""
        own = {
            name: {key.partition("/f1/")[2] for key in metrics if key.startswith(f"val/{name}/f1/")} for name in names
        }
        labels = set.intersection(*own.values())
        if not self.common or all(judged == labels for judged in own.values()):
            return {name: float(metrics[f"val/{name}/macro_f1"]) for name in names}
        return {
            name: fmean(float(metrics[f"val/{name}/f1/{label}"]) for label in sorted(labels))
            for name in names
            if labels
        }

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline, "common": self.common}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.baseline, self.common = state_dict["baseline"], state_dict.get("common", False)
