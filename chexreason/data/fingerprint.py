"""What an image file is (SHA-256 of its bytes) and what it shows (a perceptual hash of 256 bits).

Chest films look alike, so the hash is long. Measured by ``make bench-data`` on real radiographs: 652 films at 320 and
at 128 pixels differ in 17 bits at most (99.8 % of them in 16 or fewer), films of different patients in 52 or more (the
closest of 73 million pairs of nih_lowres128 with itself, nih and kermany_test). 8 x 8 cosines leave no such gap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexreason.types import Study

VERSION = 2  # of both hashes: what was recorded under another is computed again
SIDE = 32  # pixels of the thumbnail
FIRST, BAND = 3, 16  # cosines kept of each axis: lower ones show a chest, not which chest
WORDS = BAND * BAND // 64
FLAT = 1.0  # grey levels of standard deviation, or of all but 4 % of the pixels, below which a picture has no hash
BLOCK = 64  # rows of one block of the pairwise search: 64 x 10,000 words fit into the processor's cache


def content_sha256(data: bytes) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def hashed(study: Study) -> Study:
    """``study`` with the SHA-256 of its image file; without one where the file cannot be read: the decoder says why."""
    try:
        return study if study.image_sha256 else replace(study, image_sha256=content_sha256(study.image.read_bytes()))
    except OSError:
        return study


def perceptual_hash(image: Image.Image) -> str:
    """The signs of 16 x 16 low cosines of a 32 x 32 thumbnail, as 64 hex digits; "" where the picture is flat.

    Stable under another size, compression, brightness and contrast; not under cropping, turning or mirroring.
    """
    thumbnail = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(thumbnail, dtype=np.float64)
    if min(pixels.std(), np.ptp(np.percentile(pixels, (2, 98)))) < FLAT:  # a marker alone tells no two films apart
        return ""
    cosines = _cosines()
    return np.packbits(cosines @ pixels @ cosines.T > 0.0).tobytes().hex()


def near_pairs(left: Sequence[str], right: Sequence[str], radius: int) -> NDArray[np.int64]:
    """Index pairs [K, 2] into ``left`` and ``right`` whose hashes differ in at most ``radius`` bits.

    An empty hash is near to none. Every pair is compared: on the first 64 bits, and on the rest where these are near.
    """
    (rows, one), (columns, other) = _words(left), _words(right)
    found = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(one), BLOCK):
        first = np.bitwise_count(one[start : start + BLOCK, None, 0] ^ other[None, :, 0])  # [block, M]
        i, j = np.nonzero(first <= radius)
        i += start
        near = np.bitwise_count(one[i] ^ other[j]).sum(axis=1) <= radius
        found.append(np.stack([rows[i[near]], columns[j[near]]], axis=1))
    return np.concatenate(found)


def _cosines() -> NDArray[np.float64]:
    """The kept cosines over SIDE pixels [BAND, SIDE]; the constant one is not among them: brightness does not count."""
    frequency, pixel = np.arange(FIRST, FIRST + BAND)[:, None], np.arange(SIDE)[None] + 0.5
    return np.cos(np.pi / SIDE * frequency * pixel)


def _words(hashes: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Positions [n] and bits [n, WORDS] of the hashes that are not empty; raises ValueError on another length."""
    kept = np.array([i for i, text in enumerate(hashes) if text], dtype=np.int64)
    foreign = next((hashes[i] for i in kept if len(hashes[i]) != 16 * WORDS), None)
    if foreign is not None:
        raise ValueError(f"'{foreign}' is no perceptual hash of this version; prepare the data sets again")
    data = bytes.fromhex("".join(hashes[i] for i in kept))
    return kept, np.frombuffer(data, dtype=np.uint64).reshape(-1, WORDS)
