"""The finished folder of a tiny model: half-precision weights, configuration, processor, tokenizer, training log."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import torch

from chexreason.model.load import TINY_WEIGHTS as WEIGHTS
from tools.tiny_models.configs import TinyModel, TinyProcessor


def tiny_path(name: str) -> Path:
    """Folder of the packaged model ``name``; raises FileNotFoundError listing those there are."""
    folder = WEIGHTS / name
    if not (folder / "config.json").is_file():
        known = sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))
        raise FileNotFoundError(f"no tiny model '{name}' at {folder}; there are: {', '.join(known) or 'none'}")
    return folder


def write_package(model: TinyModel, processor: TinyProcessor, folder: Path, log: Path | None = None) -> None:
    """Write everything to a neighbouring folder first, then move file by file into place, the weights last."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    copy.deepcopy(model).to(torch.float16).save_pretrained(partial)
    processor.save_pretrained(partial)
    if log is not None and log.exists():
        shutil.copy(log, partial / "training_log.csv")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.chmod(0o644)
        os.replace(path, folder / path.name)
    partial.rmdir()
