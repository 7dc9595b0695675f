"""Silence what libraries say on every start and nobody can act on; real warnings stay."""

from __future__ import annotations

import logging
import sys
import warnings

import transformers

# One line each: why it is no news.
_KNOWN = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning against a newer torch
    r".*is_gradient_checkpointing.*",  # PEFT against a newer transformers
    r".*You have overridden `transfer_batch_to_device`.*",  # on purpose: batches are dataclasses
    r".*The checkpoint will contain the model state AFTER optimization.*",  # on purpose: it is where a run resumes
    r".*using ModelCheckpoint with manual optimization.*",
    r".*does not have many workers.*",  # the images are small; num_workers= is there
    r".*Checkpoint directory .* exists and is not empty.*",  # on purpose: that is a resume
    r".*`LightningDataModule` does not implement.*",
    r".*your dataloader is not resumable.*",  # it is: the data module keeps the epoch and the place in it
)


def quiet() -> None:
    """Hide start-up notices of Lightning and transformers; their weight-loading bar shows on a terminal only."""
    for message in _KNOWN:
        warnings.filterwarnings("ignore", message=f"(?is){message}")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
