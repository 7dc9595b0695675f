"""The checkpoint that a killed run resumes from: written whole, and only after a step and its validation."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from chexreason.files import whole

_SEAL = 64  # hexadecimal digits of a SHA-256


class ResumePoint(Checkpoint):
    """Replaces ``path`` by the state of the run, every ``every`` optimiser steps or as soon as possible after them.

    The first rank keeps a copy of the state after each step that a checkpoint may follow. ``write_ready`` writes the
    last one when the run is told to end in the middle of a step. The copies take turns in two sets of buffers, so one
    is whole at any moment; they hold what a checkpoint holds, on the CPU.

    A checkpoint is written only after an optimiser step has finished, and its validation too where one follows. Early
    stopping and the choice of the best adapter belong to that validation, and a resumed run does not repeat it. The
    end of an epoch is used only in a run whose length is given in epochs: in one given in steps, Lightning would resume
    with an epoch of one batch. The end of training is not used: a run that finds itself finished does no more work, so
    it resumes from the checkpoint before and repeats its last steps.

    A kill loses the steps since the last checkpoint, and the same command repeats them. Lightning logs a batch only
    after its callbacks. Its figures are therefore kept in the checkpoint, and a resumed run logs them first. The last
    value of every metric is kept too: a resumed run may end without another validation.
    """

    def __init__(self, path: str | Path, every: int) -> None:
        if every < 1:
            raise ValueError(f"callbacks.checkpoint_every={every}: use 1 or more optimiser steps")
        self.path, self.every, self._saved = Path(path), every, 0
        self._unlogged: dict[str, float] = {}
        self._metrics: dict[str, float] = {}
        self._ready: dict[str, Any] | None = None
        self._spare: dict[str, Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = trainer.global_step
        known = {name: torch.tensor(value, dtype=torch.float64) for name, value in self._metrics.items()}
        trainer.callback_metrics.update(known)
        for logger in trainer.loggers if self._unlogged else ():
            logger.log_metrics(dict(self._unlogged), step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        between = (batch_idx + 1) % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch
        if not (between or _closes_epoch(trainer) or _validates_after(trainer, batch_idx)):
            values = {k: float(value) for k, value in trainer.logged_metrics.items() if k.startswith("train/")}
            self._save(trainer, unlogged={"epoch": trainer.current_epoch, **values})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not _closes_epoch(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _closes_epoch(trainer):
            self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"unlogged": self._unlogged, "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._unlogged, self._metrics = state_dict["unlogged"], state_dict.get("metrics", {})

    def write_ready(self, signal: str) -> None:
        """Write the state after the last whole step of this process, if there was one."""
        if self._ready is not None:
            write_checkpoint(self._ready, self.path)

    def _save(self, trainer: L.Trainer, unlogged: dict[str, float] | None = None) -> None:
        if _over(trainer):
            return
        self._metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._unlogged = unlogged or {}
        if not trainer.is_global_zero:
            return
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        state = _copied(state, self._spare)
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # the copies are under way
        self._ready, self._spare = state, self._ready
        if trainer.global_step - self._saved >= self.every:
            write_checkpoint(state, self.path)
            self._saved = trainer.global_step


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write ``state``, all or nothing, with the SHA-256 of the file as its zip comment: torch misses flipped bits."""
    # a kill leaves the old file or the new one; given a path, torch does not say why the disk refused
    with whole(path) as unfinished, unfinished.open("w+b") as file:
        torch.save(state, file)
        file.seek(-2, os.SEEK_END)  # the length of the comment ends a zip file
        file.write(_SEAL.to_bytes(2, "little"))
        file.seek(0)
        file.write(hashlib.file_digest(file, "sha256").hexdigest().encode())


def check_checkpoint(path: Path) -> None:
    """Refuse (ValueError) a damaged checkpoint; one of before the hash is read in full, by zip and by torch.

    Damaged bytes make zip and torch raise errors of nearly every kind. A file that the system cannot read raises its
    own OSError.
    """
    with path.open("rb") as file:
        try:
            with ZipFile(file) as parts, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                if parts.comment:
                    found = hashlib.sha256(memoryview(data)[:-_SEAL]).hexdigest().encode()
                    damaged = "" if found == parts.comment else "other bytes than were written"
                else:
                    damaged = parts.testzip()
                    torch.load(path, map_location="cpu", weights_only=True)  # a header that only torch stumbles over
        except Exception as fault:
            damaged = str(fault).partition("\n")[0] or type(fault).__name__
    if damaged:
        raise ValueError(
            f"{path} is damaged ({damaged}). Choose another name=, or begin the run anew with restart=true, which sets "
            "aside what is there"
        )


def _copied(node: Any, into: Any) -> Any:
    """``node`` with every tensor copied to the CPU, into the buffer at the same place of ``into`` where it fits."""
    if isinstance(node, Tensor):
        fits = isinstance(into, Tensor) and (into.shape, into.dtype) == (node.shape, node.dtype)
        buffer = into if fits else torch.empty_like(node, device="cpu", pin_memory=node.is_cuda)
        return buffer.copy_(node, non_blocking=node.is_cuda)
    if isinstance(node, Mapping):
        known = into if isinstance(into, dict) else {}
        return {key: _copied(value, known.get(key)) for key, value in node.items()}
    if isinstance(node, list | tuple):
        places = into if isinstance(into, list) and len(into) == len(node) else [None] * len(node)
        return type(node)(_copied(value, place) for value, place in zip(node, places, strict=True))
    return copy.deepcopy(node)


def _closes_epoch(trainer: L.Trainer) -> bool:
    """True after the last batch of an epoch whose end may be a checkpoint."""
    return trainer.is_last_batch and trainer.max_steps == -1


def _validates_after(trainer: L.Trainer, batch_idx: int) -> bool:
    """True when a validation may follow the batch."""
    by_epoch = trainer.check_val_every_n_epoch is not None
    index = batch_idx if by_epoch else trainer.fit_loop.epoch_loop.total_batch_idx
    return (index + 1) % trainer.val_check_batch == 0


def _over(trainer: L.Trainer) -> bool:
    """True when training ends here: by early stopping, by its steps or by its epochs."""
    steps, epochs = trainer.max_steps, trainer.max_epochs
    last_epoch = trainer.is_last_batch and epochs is not None and 0 < epochs <= trainer.current_epoch + 1
    return trainer.should_stop or 0 < steps <= trainer.global_step or last_epoch
