"""Where each sign of a rendered phantom lies: the film with one sign against the film without any.

    python -m tools.tiny_models.marks --out out/tiny/phantoms --shards 24

Pixel-level supervision is what lets a small vision tower find small signs within an hour.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from chexreason.files import whole
from chexreason.labels.catalog import CHEXPERT14
from chexreason.phantom.patient import PARENT_OF
from chexreason.phantom.render import render_film
from tools.tiny_models.phantom_stream import phantom
from tools.tiny_models.phantoms import FILM, SEED, SHARD, shards

GRID = 16  # marks are GRID x GRID


def sign_marks(index: int) -> dict[str, np.ndarray]:
    """Marks in 0..1, float [GRID, GRID], of each sign of phantom ``index``; a parent label gets its children's."""
    study, hospital = phantom(SEED, index)
    marks: dict[str, np.ndarray] = {}
    if not study.findings:
        return marks
    plain = render_film(replace(study, findings=()), hospital.rendering, FILM).astype(np.float32)
    for sign in study.findings:
        film = render_film(replace(study, findings=(sign,)), hospital.rendering, FILM)
        change = np.abs(film - plain).reshape(GRID, FILM // GRID, GRID, FILM // GRID).mean((1, 3))
        mark = (change / max(float(change.max()), 1e-6)).clip(0, 1)
        for label in {sign.label, PARENT_OF.get(sign.label, sign.label)}:
            marks[label] = np.maximum(marks.get(label, 0.0), mark)
    return marks


def mark_shard(index: int, folder: Path) -> None:
    """Write the marks of one shard: row, label column and map of each sign."""
    found = [
        (row, CHEXPERT14.index(label), mark)
        for row in range(SHARD)
        for label, mark in sign_marks(index * SHARD + row).items()
    ]
    rows, columns, maps = zip(*found, strict=True)
    with whole(folder / f"marks-{index:03d}.npz") as temporary:
        np.savez(temporary, rows=rows, columns=columns, maps=(255 * np.stack(maps)).astype(np.uint8))


def load_marks(folder: Path, shards: range) -> tuple[torch.Tensor, dict[int, list[tuple[int, torch.Tensor]]]]:
    """Which rows of the concatenated shards are marked, bool [N], and row -> (label column, map uint8 [G, G]) pairs."""
    marked = torch.zeros(len(shards) * SHARD, dtype=torch.bool)
    found: dict[int, list[tuple[int, torch.Tensor]]] = {}
    for place, index in enumerate(shards):
        path = folder / f"marks-{index:03d}.npz"
        if not path.exists():
            continue
        marked[place * SHARD : (place + 1) * SHARD] = True
        with np.load(path, allow_pickle=False) as saved:
            maps = torch.from_numpy(saved["maps"])
            for row, column, mark in zip(saved["rows"].tolist(), saved["columns"].tolist(), maps, strict=True):
                found.setdefault(place * SHARD + row, []).append((column, mark))
    return marked, found


if __name__ == "__main__":
    shards(__doc__, "marks", mark_shard, first=1)  # the first shard is held out
