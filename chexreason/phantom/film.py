"""From optical density to the 8-bit film a hospital archives: exposure, scatter, blur, noise, border, marker."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from chexreason.phantom.fields import Field, soften
from chexreason.phantom.institution import Rendering


def expose(density: Field, rendering: Rendering, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Film [S, S] uint8 of ``density`` [S, S]; ``density`` itself is left alone."""
    size = density.shape[0]
    luck = rng.standard_normal(6).tolist()
    image = rendering.contrast * (1.0 + 0.06 * luck[0]) * (density - 0.5) + 0.5
    image = image + rendering.exposure + 0.03 * luck[1]
    image = (1.0 - rendering.veil) * image + rendering.veil * (0.75 * float(image.mean()) + 0.25 * 0.6)
    image = np.clip(image, 0.0, 1.0) ** np.float32(rendering.gamma * (1.0 + 0.06 * luck[2]))
    image = soften(image.astype(np.float32), (1 if size > 100 else 0) + rendering.blur)
    image = _rotate(image, 1.6 * luck[3])
    grain = rng.standard_normal((size, size), dtype=np.float32)
    image = image + rendering.noise * (1.2 - 0.5 * image) * grain
    film = (np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    place = rng.random(6)
    if place[0] < rendering.border:
        _collimate(film, place[1:5], size)
    _mark(film, rendering.marker, place[5], luck[4], luck[5])
    return film


def _rotate(image: Field, degrees: float) -> Field:
    turned = Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=0.0)
    return np.asarray(turned, dtype=np.float32)


def _collimate(film: NDArray[np.uint8], share: NDArray[np.float64], size: int) -> None:
    """Black out the strips outside the collimated field, in place on the fresh film."""
    top, bottom, left, right = (int(s * 0.06 * size) for s in share)
    film[:top] = film[size - bottom :] = 4
    film[:, :left] = film[:, size - right :] = 4


def _mark(film: NDArray[np.uint8], text: str, place: float, dx: float, dv: float) -> None:
    """Burn the side marker (patient's left, image's right) or the portable label into the fresh film, in place."""
    size = film.shape[0]
    stamp = _stamp(text, max(7, size // (14 if len(text) == 1 else 20)))
    height, width = stamp.shape
    column = int(np.clip((0.90 if len(text) == 1 else 0.80 * round(place)) * size + 3 * dx, 2, size - width - 2))
    row = int(np.clip(0.08 * size + 3 * dv, 2, size - height - 2))
    area = film[row : row + height, column : column + width]
    np.maximum(area, stamp, out=area)


@functools.lru_cache(maxsize=32)
def _stamp(text: str, height: int) -> NDArray[np.uint8]:
    font = ImageFont.load_default(size=height)
    left, top, right, bottom = font.getbbox(text)
    stamp = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(stamp).text((1 - left, 1 - top), text, fill=235, font=font)
    return np.asarray(stamp)
