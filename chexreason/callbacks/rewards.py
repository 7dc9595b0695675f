"""The reward of every study at every rollout, on disk: what tells learning from a change of studies."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from chexreason.data.batches import Batch

COLUMNS = ("step", "study_id", "patient_id", "reward")


class RewardLog(L.Callback):
    """Appends (rollout, study, patient, mean reward of its group) to ``folder/rewards-rank<r>.csv``, a file a rank.

    A resumed run repeats the rollouts after its checkpoint; the later row of a (rollout, study) counts.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        rewards: Tensor = outputs["rewards"]  # [B, G]
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        path = self.folder / f"rewards-rank{trainer.global_rank}.csv"
        new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            for sample, row in zip(batch.samples, rewards, strict=True):
                study = sample.study
                writer.writerow((step, study.study_id, study.patient_id, f"{float(row.mean()):.6g}"))
