"""A few validation answers of every evaluation, kept on disk to be read beside the curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from chexreason.types import Prediction


class SampleLog(L.Callback):
    """Appends the first ``n`` answers of each validation set to ``path`` (JSON lines with step, study, text, labels).

    Local only, of every set; which answers a dashboard may show is the rule of ``wandb_run``.
    """

    def __init__(self, path: str, n: int = 2) -> None:
        self.path, self.n = Path(path), n

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx > 0 or not trainer.is_global_zero:
            return
        predictions: list[Prediction] = outputs[: self.n]
        with self.path.open("a", encoding="utf-8") as lines:
            for p in predictions:
                row = {"step": trainer.global_step, "dataset": p.dataset, "study_id": p.study_id, "text": p.text}
                row |= {"predicted": p.predicted, "truth": p.truth, "broken": p.broken}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
