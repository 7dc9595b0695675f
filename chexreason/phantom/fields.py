"""Small image arithmetic on float32 fields: ramps, soft noise, strokes. All pure, all cheap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.floating[Any]]  # float32 throughout; numpy's stubs lose the width in mixed arithmetic
Stroke = tuple[Sequence[tuple[float, float]], float, float]  # points (x, v), width, brightness 0..1


def ramp(distance: Field, width: float) -> Field:
    """Soft step [..]: 0 well below zero, 1 well above, linear over ``width`` around it."""
    out: Field = distance * np.float32(1.0 / width) + np.float32(0.5)
    np.maximum(out, 0.0, out=out)
    np.minimum(out, 1.0, out=out)
    return out


def bump(distance: Field, width: float) -> Field:
    """Triangular ridge [..]: 1 at zero, 0 beyond ``width``."""
    out: Field = 1.0 - np.abs(distance) * np.float32(1.0 / width)
    np.maximum(out, 0.0, out=out)
    return out


def cloud(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Smooth noise [size, size] of roughly unit variance with ``cells`` lumps a side."""
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) * 1.2


def soften(image: Field, passes: int) -> Field:
    """``image`` [H, W] after ``passes`` binomial filters (1, 2, 1)/4 along both axes, edges repeated."""
    for _ in range(passes):
        padded = np.pad(image, 1, mode="edge")
        rows = padded[:-2] + 2.0 * padded[1:-1] + padded[2:]
        image = (rows[:, :-2] + 2.0 * rows[:, 1:-1] + rows[:, 2:]) * np.float32(1 / 16)
    return image


def curve(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """``points`` rounded by two passes of corner cutting; the ends stay (Chaikin 1974)."""
    path = np.asarray(points, dtype=np.float64)  # [N, 2]
    for _ in range(2):
        near, far = 0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]
        cut = np.stack([near, far], axis=1).reshape(-1, 2)[1:-1]
        path = np.concatenate([path[:1], cut, path[-1:]])
    return [(float(x), float(v)) for x, v in path]


def strokes(size: int, lines: Iterable[Stroke], discs: Iterable[tuple[float, float, float, float]] = ()) -> Field:
    """Anti-aliased polylines and discs (x, v, radius, brightness) on a black field [size, size], values 0..1."""
    side = 2 * size
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    for points, width, value in lines:
        pixels = [((x + 1) * size, (v + 1) * size) for x, v in points]
        pen.line(pixels, fill=int(255 * value), width=max(1, round(width * size)))
    for x, v, radius, value in discs:
        box = [(x - radius + 1) * size, (v - radius + 1) * size, (x + radius + 1) * size, (v + radius + 1) * size]
        pen.ellipse(box, fill=int(255 * value))
    return np.asarray(canvas.reduce(2), dtype=np.float32) * np.float32(1 / 255)
