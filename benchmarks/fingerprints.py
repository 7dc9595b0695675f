"""How near films of different patients are, which copies of a film the guard finds, and how fast it searches.

    make bench-fingerprints

Prints a table and writes ``out/bench/fingerprints.json``. Real radiographs come from ``CHEXREASON_DATA`` (default
``../shared/data``); without them only phantoms are compared.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.data import DATA
from benchmarks.measure import Row, report, row, seconds
from chexreason.data.fingerprint import near_pairs, perceptual_hash
from chexreason.data.image import load_image
from chexreason.data.leakage import RADIUS, WARNING_RADIUS
from tools.tiny_models.phantom_stream import stream

N_PHANTOMS, EVERY = 10_000, 5  # EVERY: films of nih between two that are changed
SEARCHED = (100_000, 10_000)
FAR = (40, 56, 80)  # bits within which the closest pair is looked for, in turn: the wider, the slower


def cut(film: Image.Image, share: float) -> Image.Image:
    """``film`` without ``share`` of its width and height at each edge, at its former size."""
    width, height = film.size
    box = (width * share, height * share, width * (1 - share), height * (1 - share))
    return film.resize(film.size, Image.Resampling.BICUBIC, box)


def compressed(film: Image.Image) -> Image.Image:
    """``film`` at 128 pixels as a JPEG of quality 60."""
    buffer = io.BytesIO()
    film.resize((128, 128), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def turned(film: Image.Image, degrees: float) -> Image.Image:
    """``film`` turned inside its frame."""
    return film.rotate(degrees, Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "128 px, JPEG 60": compressed,
    "brightness 0.8": lambda film: ImageEnhance.Brightness(film).enhance(0.8),
    "contrast 1.2": lambda film: ImageEnhance.Contrast(film).enhance(1.2),
    "contrast 1.5": lambda film: ImageEnhance.Contrast(film).enhance(1.5),
    "mirrored": ImageOps.mirror,
    "mirrored, 128 px, JPEG 60": lambda film: compressed(ImageOps.mirror(film)),
    "upside down": ImageOps.flip,
    "quarter turn": lambda film: film.transpose(Image.Transpose.ROTATE_90),
    "negative": ImageOps.invert,
    **{f"turned by {degrees} degrees": partial(turned, degrees=degrees) for degrees in (0.5, 1, 2)},
    **{f"cut by {share:.1%} at each edge": partial(cut, share=share) for share in (0.005, 0.01, 0.02)},
}


def apart(name: str, hashes: list[str], patients: list[str]) -> Iterator[Row]:
    """Pairs of different patients within the radii, in any view, and the bits of the closest."""
    owner = np.array(patients)
    for radius in FAR:
        found = near_pairs(hashes, hashes, radius)
        found = found[(found[:, 0] < found[:, 1]) & (owner[found[:, 0]] != owner[found[:, 1]])]
        if len(found):
            break
    counts = np.unique(owner, return_counts=True)[1].astype(float)
    n = (len(owner) ** 2 - (counts**2).sum()) / 2
    case = f"{name}, {n:,.0f} pairs of different patients"
    yield row(f"{case}, closest", "bits", float(found[:, 2].min(initial=256)))
    for radius in (RADIUS, WARNING_RADIUS):
        yield row(f"{case}, within {radius} bits", "pairs", float((found[:, 2] <= radius).sum()))


def copies(films: list[Image.Image]) -> Iterator[Row]:
    """Share of changed films within the radii of what they were."""
    before = [perceptual_hash(film) for film in films]
    for name, change in CHANGES.items():
        found = near_pairs(before, [perceptual_hash(change(film)) for film in films], WARNING_RADIUS)
        bits = found[found[:, 0] == found[:, 1], 2]
        for radius in (RADIUS, WARNING_RADIUS):
            yield row(f"{len(films)} films, {name}, within {radius} bits", "share", (bits <= radius).sum() / len(films))


def rows() -> Iterator[Row]:
    """All lines of the table."""
    rng = np.random.default_rng(0)
    one, other = ([rng.bytes(32).hex() for _ in range(n)] for n in SEARCHED)
    spent = seconds(lambda: near_pairs(one, other, WARNING_RADIUS))
    yield row(f"search of {SEARCHED[0]:,} x {SEARCHED[1]:,} fingerprints", "s", spent, bar=60.0)
    seen: dict[str, str] = {}
    for name in ("nih", "nih_lowres128", "kermany_test"):
        if (DATA / name / "labels.csv").is_file():
            table = pd.read_csv(DATA / name / "labels.csv", dtype=str)
            films = [load_image(DATA / name / path).convert("L") for path in table["path"]]
            hashes = [perceptual_hash(film) for film in films]
            yield from apart(name, hashes, table["patient_id"].tolist())
            if name == "nih":
                yield from copies(films[::EVERY])
            twice = [(seen[path], found) for path, found in zip(table["path"], hashes, strict=True) if path in seen]
            if twice:  # of nih at 320 pixels, of nih_lowres128 at 128
                bits = [(int(a, 16) ^ int(b, 16)).bit_count() for a, b in twice]
                yield row(f"{len(bits)} films at 320 and 128 px, farthest", "bits", float(max(bits)))
            seen |= dict(zip(table["path"], hashes, strict=True))
    phantoms = [perceptual_hash(Image.fromarray(pixels)) for pixels, _ in islice(stream(0, size=128), N_PHANTOMS)]
    yield from apart("phantoms", phantoms, [str(i) for i in range(N_PHANTOMS)])


if __name__ == "__main__":
    report("fingerprints", rows())
