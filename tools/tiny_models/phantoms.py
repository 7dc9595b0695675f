"""Phantom films rendered once to disk, so that pre-training reads them as fast as it learns.

    python -m tools.tiny_models.phantoms --out out/tiny/phantoms --shards 24

Written shard by shard; a rerun adds only the missing ones, and pre-training uses those that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from chexreason.files import whole
from chexreason.labels.catalog import CHEXPERT14
from chexreason.types import Sign, Study
from tools.tiny_models.phantom_stream import item, truth
from tools.tiny_models.radiographs import SIZE, Radiographs

SHARD = 1000
SEED = 2512
FILM = 160  # side at which phantom hospitals render; the processors shrink it to 128


def render_shard(index: int, folder: Path) -> None:
    """Render items ``index * SHARD`` onward of the phantom stream into one ``.npz`` file."""
    pixels = np.empty((SHARD, SIZE, SIZE), np.uint8)
    notes = []
    for row in range(SHARD):
        film, phantom = item(SEED, index * SHARD + row, size=FILM)
        pixels[row] = np.asarray(Image.fromarray(film).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        study = truth(phantom)
        signs = [asdict(sign) for sign in study.signs]
        notes.append({"dataset": study.dataset, "view": study.view, "target": study.target, "signs": signs})
    with whole(folder / f"shard-{index:03d}.npz") as temporary:
        np.savez(temporary, pixels=pixels, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8))


def load_shards(folder: Path, first: int = 0, last: int | None = None) -> tuple[Radiographs, list[Study]]:
    """Rendered films of shards ``first`` up to ``last``, as arrays and as fully labelled studies.

    Raises FileNotFoundError where there are none.
    """
    paths = sorted(folder.glob("shard-*.npz"))[first:last]
    if not paths:
        raise FileNotFoundError(f"no phantom shards in {folder}: run python -m tools.tiny_models.phantoms first")
    pixels, studies = [], []
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            pixels.append(torch.from_numpy(shard["pixels"]))
            notes = json.loads(shard["notes"].tobytes())
        studies += [_study(f"{path.stem}-{row}", note) for row, note in enumerate(notes)]
    target = torch.tensor([study.target for study in studies], dtype=torch.float32)
    views = tuple(study.view for study in studies)
    return Radiographs(torch.cat(pixels), target, torch.ones_like(target), views), studies


def _study(name: str, note: dict[str, object]) -> Study:
    signs = tuple(Sign(**sign) for sign in note["signs"])  # type: ignore[attr-defined]
    target = tuple(note["target"])  # type: ignore[arg-type]
    mask = (True,) * len(CHEXPERT14)
    return Study(name, name, str(note["dataset"]), Path(), target, mask, view=str(note["view"]), signs=signs)


def shards(about: str, name: str, write: Callable[[int, Path], None], first: int = 0) -> None:
    """The command line that writes the missing files ``<name>-<shard>.npz`` of a folder, from shard ``first`` on."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=24)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for index in range(first, args.shards):
        if not (args.out / f"{name}-{index:03d}.npz").exists():
            write(index, args.out)
            print(f"{name}: shard {index + 1} of {args.shards}", flush=True)


if __name__ == "__main__":
    shards(__doc__, "shard", render_shard)
