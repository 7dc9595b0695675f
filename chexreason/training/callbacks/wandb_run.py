"""What a Weights & Biases run shows beside its figures: their axes and summaries, and answers to the same studies."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

import lightning as L
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from chexreason.data.credentialed import ExportError, held_sets, named_agreement
from chexreason.data.image import load_image
from chexreason.files import write_text
from chexreason.signals import is_first_rank
from chexreason.training.callbacks.transfer_rules import CHOSEN_BY
from chexreason.types import Prediction, Study

log = logging.getLogger(__name__)

STEP = "trainer/global_step"  # the logger's own axis: optimiser steps of SFT, rollouts of GRPO
# What a run is judged by in tables of runs; the other figures keep their last value.
SUMMARIES = {
    "train/loss": "last,min",
    "train/reward": "last,mean",
    "train/entropy": "last,min",
    "train/completion_length": "last,mean",
    "val/loss": "last,min",
}
SET_SUMMARIES = {"macro_f1": "last,max", "micro_f1": "last,max", "fail_rate": "last,min", "no_label_rate": "last,min"}
TABLE_COLUMNS = ("step", "dataset", "study_id", "truth", "predicted", "broken", "text")
_SIDE = 512  # pixels of the longer side of a picture in the table


def wandb_logger(
    run_dir: Path, *, project: str, entity: str | None, group: str | None, offline: bool, name: str, config: Mapping
) -> Logger:
    """A run whose id is kept in its directory: a resumed run goes on, one that begins anew there is another."""
    return WandbLogger(
        project=project,
        entity=entity,
        group=group,
        offline=offline,
        id=_identity(run_dir),
        resume="allow",
        save_dir=str(run_dir),
        name=name,
        config=dict(config),
    )


def _identity(run_dir: Path) -> str | None:
    """The random id that a directory keeps, made by the first rank; that of an earlier version's is of its path."""
    path = run_dir / "wandb.id"
    if not path.is_file() and is_first_rank():
        begun = (run_dir / "wandb").is_dir()
        write_text(path, sha256(str(run_dir.resolve()).encode()).hexdigest()[:16] if begun else token_hex(8))
    return path.read_text() if path.is_file() else None


class WandbRun(L.Callback):
    """Defines the metrics of the run, and logs ``completions``: the first ``n`` answers of each set a validation.

    The studies are the same each time. Text and labels of credentialed studies (sets in ``credentialed``, or by their
    vendor) stay here unless ``allow_export`` names the agreement under which they may leave; pictures go along where
    ``media`` is set. An offline run is held to the same rule: it is synchronised later. Raises ExportError where
    ``media`` is asked for and the agreement is missing. Ends the W&B run with the training, so that the next job of
    the same process begins its own.
    """

    def __init__(
        self, n: int, *, media: bool = False, allow_export: str | None = None, credentialed: Collection[str] = ()
    ) -> None:
        if n < 0:
            raise ValueError(f"logger.wandb.completions={n}: use 0 for none, or how many studies of each set")
        self.n, self.media, self.allow_export = n, media, allow_export
        self.credentialed = tuple(credentialed)
        self.withheld = False
        self._rows: dict[int, list[Prediction]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._check([sample.study for sample in data.train_samples])  # a model repeats what it was trained on
        run = _logger(trainer).experiment
        for name, summary in SUMMARIES.items():
            run.define_metric(name, step_metric=STEP, summary=summary)
        for place in (*data.val_names, *CHOSEN_BY):
            for figure, summary in SET_SUMMARIES.items():
                run.define_metric(f"val/{place}/{figure}", step_metric=STEP, summary=summary)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._rows = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Sequence[Prediction],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rows = self._rows.setdefault(dataloader_idx, [])
        rows += outputs[: max(0, self.n - len(rows))]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rows = [row for loader in self._rows.values() for row in loader]
        self._check(rows)
        if self.withheld or not rows or not trainer.is_global_zero or trainer.sanity_checking:
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # where Lightning puts the validation's figures
        columns = [*TABLE_COLUMNS, "image"] if self.media else list(TABLE_COLUMNS)
        _logger(trainer).log_table("completions", columns, [self._cells(step, row) for row in rows], step=step)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            wandb.finish()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            wandb.finish(exit_code=1)

    def _check(self, studies: Sequence[Study] | Sequence[Prediction]) -> None:
        """Withhold the answers from now on where a study is credentialed and no agreement lets it leave."""
        if self.withheld or self.n == 0:
            return
        if not held_sets(studies, self.credentialed) or named_agreement(self.allow_export) is not None:
            return
        if self.media:
            raise ExportError(
                "logger.wandb.media=true would show credentialed studies to Weights & Biases: leave it out, or name "
                f"the agreement that allows it: logger.wandb.allow_export='...' (found {self.allow_export!r})"
            )
        self.withheld = True
        log.info("answers stay out of Weights & Biases: this run holds credentialed studies")

    def _cells(self, step: int, row: Prediction) -> list[Any]:
        labels = (", ".join(row.truth), ", ".join(row.predicted))
        cells: list[Any] = [step, row.dataset, row.study_id, *labels, row.broken or "", row.text]
        if self.media:
            picture = load_image(Path(row.image))
            picture.thumbnail((_SIDE, _SIDE))
            cells.append(wandb.Image(picture))
        return cells


def _logger(trainer: L.Trainer) -> WandbLogger:
    return next(logger for logger in trainer.loggers if isinstance(logger, WandbLogger))
