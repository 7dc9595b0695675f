"""What a Weights & Biases run shows beside its figures: their axes and summaries, and answers to the same studies."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

import lightning as L
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from chexreason.data.credentialed import ExportError, agreement_for
from chexreason.data.image import load_image
from chexreason.files import write_text
from chexreason.signals import is_first_rank
from chexreason.training.callbacks.transfer_rules import CHOSEN_BY
from chexreason.training.gate import Gate, shareable
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
ANSWERS = ("completions", "media", "allow_export")  # what its callback and the gate read of a logger's settings
TABLE_COLUMNS = ("step", "dataset", "study_id", "truth", "predicted", "broken", "text")
_SIDE = 512  # pixels of the longer side of a picture in the table
# W&B's own record of a run has none of what tells of the machine, its user and the command, nor what the run prints.
_SILENT = {"console": "off", "disable_git": True, "disable_code": True, "host": "-", "program": "-"}
_SILENT |= {"x_disable_meta": True, "x_disable_machine_info": True, "x_save_requirements": False}
_COPIES = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")  # where it copies what it uploads: by default in the home folder


def wandb_logger(run_dir: Path, config: Mapping, *, offline: bool, tags: Sequence[str] = (), **run: Any) -> Logger:
    """A run whose id is kept in its directory: a resumed run goes on, one that begins anew there is another.

    ``run`` is where it belongs and what it is called: project, entity, group, job_type and name.
    """
    return WandbLogger(
        **run,
        tags=[str(shareable(tag))[:64] for tag in tags],  # W&B takes no longer ones
        offline=offline,
        id=_identity(run_dir),
        resume="allow",
        save_dir=str(run_dir),
        config=shareable({key: value for key, value in config.items() if key not in ("paths", "run_dir")}),
        settings=wandb.Settings(**_SILENT),
    )


def _identity(run_dir: Path) -> str | None:
    """The random id that a directory keeps, made by the first rank; that of an earlier version's is of its path."""
    path = run_dir / "wandb.id"
    if not path.is_file() and is_first_rank():
        begun = (run_dir / "wandb").is_dir()
        write_text(path, sha256(str(run_dir.resolve()).encode()).hexdigest()[:16] if begun else token_hex(8))
    return path.read_text() if path.is_file() else None


def finish_wandb() -> None:
    """End the run of W&B, so that the next job of this process begins its own."""
    wandb.finish()


class WandbRun(L.Callback):
    """Defines the metrics of the run, and logs ``completions``: the first ``n`` answers of each set a validation.

    The studies are the same each time. Text and labels stay here where the gate holds back any study of the run, and an
    offline run is held to the same rule: it is synchronised later. Pictures go along where ``media`` is set; they are
    staged in the run directory until they are sent. Raises ExportError where ``media`` is asked for and the gate holds
    back. Ends the W&B run with the training, so that the next job of the same process begins its own.
    """

    def __init__(self, n: int, *, media: bool = False) -> None:
        if n < 0:
            raise ValueError(f"logger.wandb.completions={n}: use 0 for none, or how many studies of each set")
        self.n, self.media, self.withheld = n, media, False
        self._rows: dict[int, list[Prediction]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        gate = self._check(trainer, [sample.study for sample in data.train_samples])  # a model repeats what it learnt
        os.environ |= dict.fromkeys(_COPIES, str(_staging(gate)))
        run = gate.logger.experiment  # type: ignore[attr-defined]
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
        gate = self._check(trainer, rows)
        if self.withheld or not rows or not trainer.is_global_zero or trainer.sanity_checking:
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # where Lightning puts the validation's figures
        columns = [*TABLE_COLUMNS, "image"] if self.media else list(TABLE_COLUMNS)
        elsewhere, tempfile.tempdir = tempfile.tempdir, str(_staging(gate))
        try:
            gate.log_table("completions", columns, [self._cells(step, row) for row in rows], rows, step)
        finally:
            tempfile.tempdir = elsewhere

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._end(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._end(trainer, exit_code=1)

    def _end(self, trainer: L.Trainer, exit_code: int = 0) -> None:
        if not trainer.is_global_zero:
            return
        sent = wandb.run is not None and not wandb.run.offline
        wandb.finish(exit_code)
        wandb.teardown()  # its service keeps the folders of the run that it began with
        if sent:  # an offline run is synchronised later, from its copies
            shutil.rmtree(_staging(_gate(trainer)))

    def _check(self, trainer: L.Trainer, studies: Sequence[Study] | Sequence[Prediction]) -> Gate:
        """Withhold the answers from now on where a study may not leave; returns the gate."""
        gate = _gate(trainer)
        try:
            way = "to Weights & Biases with logger.wandb.media=true: leave that out"
            agreement_for(studies if self.n else (), gate.public, gate.allow_export, way)
        except ExportError:
            if self.media:
                raise
            log.info("answers stay out of Weights & Biases: this run holds studies that are not declared public")
            self.withheld = True
        return gate

    def _cells(self, step: int, row: Prediction) -> list[Any]:
        labels = (", ".join(row.truth), ", ".join(row.predicted))
        cells: list[Any] = [step, row.dataset, row.study_id, *labels, row.broken or "", row.text]
        if self.media:
            picture = load_image(Path(row.image))
            picture.thumbnail((_SIDE, _SIDE))
            with tempfile.NamedTemporaryFile(suffix=".png", delete=False) as file:  # else W&B writes it where all do
                picture.save(file)
            cells.append(wandb.Image(file.name))
        return cells


def _gate(trainer: L.Trainer) -> Gate:
    return next(g for g in trainer.loggers if isinstance(g, Gate) and isinstance(g.logger, WandbLogger))


def _staging(gate: Gate) -> Path:
    folder = Path(gate.save_dir, "wandb", "staging").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
