"""Per-label and macro F1 of every validation set, one metric object each."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from chexreason.labels.schema import LabelSet
from chexreason.statistics.metrics import LabelF1
from chexreason.statistics.predictions import counts
from chexreason.types import Prediction


class LabelF1Callback(L.Callback):
    """Logs ``val/<set>/macro_f1``, ``micro_f1``, ``fail_rate`` and ``f1/<label>`` after each validation."""

    def __init__(self, label_set: LabelSet) -> None:
        self.label_set = label_set
        self.metrics: dict[str, LabelF1] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        names = trainer.datamodule.val_names  # type: ignore[attr-defined]
        self.metrics = {name: LabelF1(self.label_set.labels).to(pl_module.device) for name in names}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        predictions: list[Prediction] = outputs
        metric = self.metrics[list(self.metrics)[dataloader_idx]]
        pred, truth, mask = counts(predictions, self.label_set.labels)
        failed = torch.tensor([p.broken is not None for p in predictions])
        arrays = [torch.as_tensor(a).to(metric.device) for a in (pred, truth, mask, failed)]
        metric.update(*arrays, study_ids=[p.study_id for p in predictions])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, metric in self.metrics.items():
            values = metric.compute()
            wanted = {k: v for k, v in values.items() if k in _HEADLINE or k.startswith("f1/")}
            figures = {f"val/{name}/{k}": v.float() for k, v in wanted.items()}
            # the metric has gathered all ranks' studies: they agree, and Lightning wants to be told so
            pl_module.log_dict(figures, add_dataloader_idx=False, sync_dist=True)


_HEADLINE = ("macro_f1", "macro_f1_supported", "micro_f1", "fail_rate")
