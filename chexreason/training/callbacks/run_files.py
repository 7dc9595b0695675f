"""What a run keeps in its own directory: figures by attempt, the reward of every study, answers to be read."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from torch import Tensor

from chexreason.data.batches import Batch
from chexreason.files import sound_lines, write_bytes, write_text, written
from chexreason.signals import is_first_rank
from chexreason.types import Prediction

_COLUMNS = ("step", "study_id", "patient_id", "reward")


def csv_logger(run_dir: Path) -> Logger:
    """A new ``metrics/version_<k>/metrics.csv``: one file an attempt, because the logger empties a folder in use."""
    attempts = run_dir / "metrics"
    taken = [int(path.name.removeprefix("version_")) for path in attempts.glob("version_*")]
    logger = CSVLogger(str(run_dir), name="metrics", version=max(taken, default=-1) + 1)
    if is_first_rank():
        logger._experiment = _WholeWriter(logger.log_dir)
    return logger


class _WholeWriter(ExperimentWriter):
    """Lightning's writer, which empties the file when a new column comes, and loses all rows to a kill then."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        rows = pd.read_csv(path, dtype=str, keep_default_na=False).reindex(columns=fieldnames, fill_value="")
        write_text(path, rows.to_csv(index=False, lineterminator="\r\n"))


def merge_attempts(folder: Path, out: Path) -> pd.DataFrame:
    """Join ``<folder>/version_<k>/metrics.csv`` in order and write ``out``.

    A resumed attempt repeats the steps between its checkpoint and the kill: its rows replace the earlier ones from
    its first step on. One that was cut before its first row replaces nothing, and damaged rows are left out. Raises
    FileNotFoundError when there is no metric file.
    """
    paths = sorted(folder.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.removeprefix("version_")))
    if not paths:
        raise FileNotFoundError(f"no metrics.csv under {folder}")
    found = [lines for path in paths if (lines := sound_lines(path, numbers=None))]
    attempts = [pd.read_csv(io.StringIO("\n".join(lines))) for lines in found]
    attempts = [rows for rows in attempts if "step" in rows and rows["step"].notna().any()]
    merged = attempts[0] if attempts else pd.DataFrame(columns=["step"])
    for later in attempts[1:]:
        merged = pd.concat([merged[merged["step"] < later["step"].min()], later], ignore_index=True)
    merged = merged[sorted(merged.columns)]
    write_text(out, merged.to_csv(index=False))
    return merged


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
        lines = sound_lines(path, numbers=("step", "reward"))[1:]
        kept = [line for line in lines if (step := line.partition(",")[0]).isdigit() and int(step) <= last]
        write_text(path, "\r\n".join([",".join(_COLUMNS), *kept, ""]))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        rewards: Tensor = outputs["rewards"]  # [B, G]
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        path = self._path(trainer)
        new = not path.exists()
        with written(path), path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(_COLUMNS)
            for sample, row in zip(batch.samples, rewards, strict=True):
                study = sample.study
                writer.writerow((step, study.study_id, study.patient_id, f"{float(row.mean()):.6g}"))

    def _path(self, trainer: L.Trainer) -> Path:
        return self.folder / f"rewards-rank{trainer.global_rank}.csv"


class SampleLog(L.Callback):
    """Appends the first ``n`` answers of each validation set to ``path`` (JSON lines with step, study, text, labels).

    Local only, of every set; which answers a dashboard may show is the rule of ``wandb_run``. A resumed run repeats the
    validations after its checkpoint, so their lines are taken out first: each is there once.
    """

    def __init__(self, path: str, n: int = 2) -> None:
        self.path, self.n = Path(path), n

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and trainer.ckpt_path is None:
            self.path.unlink(missing_ok=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and self.path.is_file():
            lines = self.path.read_bytes().splitlines(keepends=True)
            write_bytes(self.path, b"".join(line for line in lines if _step(line) <= trainer.global_step))

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
        with written(self.path), self.path.open("a", encoding="utf-8") as lines:
            for p in predictions:
                row = {"step": trainer.global_step, "dataset": p.dataset, "study_id": p.study_id, "text": p.text}
                row |= {"predicted": p.predicted, "truth": p.truth, "broken": p.broken}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _step(line: bytes) -> float:
    """The step of a line of samples; infinite where a kill cut it short."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf
