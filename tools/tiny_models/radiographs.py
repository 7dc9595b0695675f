"""The small real radiographs (128 px) as arrays: pixels, labels, masks; and the augmentation both trainings share."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from chexreason.labels.catalog import CHEXPERT14
from chexreason.statistics.ranking import auroc

SIZE = 128


def data_folder() -> Path:
    """Folder of the 128 px radiographs; raises FileNotFoundError with the way out when it is absent."""
    folder = Path(os.environ.get("CHEXREASON_DATA", "../shared/data")) / "nih_lowres128"
    if not (folder / "labels.csv").is_file():
        raise FileNotFoundError(
            f"no radiographs at {folder}: set CHEXREASON_DATA to the folder that holds nih_lowres128"
        )
    return folder


@dataclass(frozen=True)
class Radiographs:
    """Grey pixels uint8 [N, S, S], targets [N, 14] and masks [N, 14] (mask 0: not labelled), view names [N]."""

    pixels: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor
    views: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)


def load_radiographs(split: str, folder: Path | None = None) -> Radiographs:
    """All radiographs of one patient split ("train", "val", "test") in the order of the table."""
    folder = folder or data_folder()
    table = pd.read_csv(folder / "labels.csv").query("split == @split")
    if table.empty:
        raise ValueError(f"{folder / 'labels.csv'} has no rows of split '{split}'")
    pixels = np.stack([np.asarray(Image.open(folder / path).convert("L")) for path in table["path"]])
    raw = table[list(CHEXPERT14)].to_numpy(dtype=np.float32)
    return Radiographs(
        pixels=torch.from_numpy(pixels),
        target=torch.from_numpy(np.nan_to_num(raw)),
        mask=torch.from_numpy((~np.isnan(raw)).astype(np.float32)),
        views=tuple(table["view"].fillna("")),
    )


def augment(pixels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift, scale, rotate and re-expose each image a little; never flip, since sides matter.

    ``pixels`` uint8 [B, S, S]; returns floats [B, 1, S, S] in -1..1 (the processors' normalisation) and the affine
    maps [B, 2, 3] that were applied, for :func:`warp`.
    """
    n = len(pixels)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle, zoom = uniform(-8, 8) * (math.pi / 180), uniform(0.88, 1.08)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    row_x = torch.stack([cos, -sin, uniform(-0.08, 0.08)], 1)
    row_y = torch.stack([sin, cos, uniform(-0.08, 0.08)], 1)
    affine = torch.stack([row_x, row_y], 1)
    x = warp(normalise(pixels), affine, outside="border")
    exposed = x * uniform(0.75, 1.25)[:, None, None, None] + uniform(-0.2, 0.2)[:, None, None, None]
    return exposed.clamp(-1, 1), affine


def warp(maps: torch.Tensor, affine: torch.Tensor, outside: str = "zeros") -> torch.Tensor:
    """Maps [B, C, G, G] moved by the affine maps [B, 2, 3]; ``outside`` is "zeros", or "border" to repeat the edge."""
    grid = F.affine_grid(affine, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, align_corners=False, padding_mode=outside)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Grey bytes [B, S, S] as floats [B, 1, S, S] in -1..1."""
    return pixels.float().div(127.5).sub(1).unsqueeze(1)


def masked_bce(logits: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over the labelled entries; all [B, L]."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * mask).sum() / mask.sum().clamp(min=1)


def macro_auroc(logits: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """AUROC of each label that has both classes among its labelled studies, and their mean as ``macro``; all [N, L]."""
    areas = {}
    for column, label in enumerate(CHEXPERT14):
        rows = mask[:, column] > 0
        scores, truth = logits[rows, column].double().numpy(), (target[rows, column] > 0.5).numpy()
        area = float(auroc(scores, truth, np.ones((1, len(scores))))[0])
        if not math.isnan(area):
            areas[label] = area
    return areas | {"macro": sum(areas.values()) / max(len(areas), 1)}
