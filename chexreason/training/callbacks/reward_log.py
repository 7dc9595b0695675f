"""The reward of every study at every rollout, on disk: what tells learning from a change of studies."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from chexreason.data.batches import Batch
from chexreason.files import write_text

_COLUMNS = ("step", "study_id", "patient_id", "reward")


class RewardLog(L.Callback):
    """Appends (rollout, study, patient, mean reward of its group) to ``folder/rewards-rank<r>.csv``, a file a rank.

    A resumed run repeats the rollouts after its checkpoint, so their rows are taken out first: each is there once.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        path, last = self._path(trainer), trainer.fit_loop.epoch_loop.total_batch_idx
        if not path.is_file():
            return
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(_COLUMNS)]  # a kill can cut the last one short
        kept = [row for row in rows if row[0].isdigit() and int(row[0]) <= last]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([_COLUMNS, *kept])
        write_text(path, text.getvalue())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        rewards: Tensor = outputs["rewards"]  # [B, G]
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        path = self._path(trainer)
        new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(_COLUMNS)
            for sample, row in zip(batch.samples, rewards, strict=True):
                study = sample.study
                writer.writerow((step, study.study_id, study.patient_id, f"{float(row.mean()):.6g}"))

    def _path(self, trainer: L.Trainer) -> Path:
        return self.folder / f"rewards-rank{trainer.global_rank}.csv"
