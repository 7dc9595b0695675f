"""What an image file is (SHA-256 of its bytes) and what it shows (a perceptual hash of 256 bits).

Chest films look alike, so the hash is long. Measured by ``make bench-fingerprints``: 652 real films at 320 and at 128
pixels differ in 17 bits at most, films of different patients in 52 or more (the closest of 50 million pairs of
nih_lowres128, in any of 16 views), phantoms in 23 or more (of as many). 8 x 8 cosines leave no such gap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexreason.types import Study

VERSION = 2  # of both hashes: what was recorded under another is computed again
SIDE = 32  # pixels of the thumbnail
FIRST, BAND = 3, 16  # cosines kept of each axis: lower ones show a chest, not which chest
WORDS = BAND * BAND // 64
FLAT = 1.0  # grey levels of standard deviation, or of all but 4 % of the pixels, below which a picture has no hash
BLOCK, WIDTH = 64, 4096  # pairs of one block of the search: its words fit into the processor's cache
_MIRRORED = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]], dtype=bool)  # words complemented
_VIEWS = np.concatenate([_MIRRORED, ~_MIRRORED])[:, :, None]  # [8, WORDS, 1]; the second half are the negatives


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

    Stable under another size, compression and brightness, and for ``near_pairs`` mirroring; not under cropping.
    """
    thumbnail = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(thumbnail, dtype=np.float64)
    if min(pixels.std(), np.ptp(np.percentile(pixels, (2, 98)))) < FLAT:  # a marker alone tells no two films apart
        return ""
    cosines = _cosines()
    return np.packbits(cosines @ pixels @ cosines.T > 0.0).tobytes().hex()


def near_pairs(left: Sequence[str], right: Sequence[str], radius: int) -> NDArray[np.int64]:
    """Indices into ``left`` and ``right`` and the differing bits [K, 3] of all pairs within ``radius``.

    A mirrored, quarter-turned or negative film is as near as the film itself: the nearest of 16 views counts. An empty
    hash is near to none. Every pair is compared: on half of the bits, and on the rest where these are near.
    """
    (rows, one), (columns, other) = _words(left), _words(right)
    found = [np.zeros((0, 3), dtype=np.int64)]
    for seen in (other, _words(right, turned=True)[1]):
        for top, start in product(range(0, len(rows), BLOCK), range(0, len(columns), WIDTH)):
            block, across = one[:, top : top + BLOCK], seen[:, start : start + WIDTH]
            halves = [np.bitwise_count(block[w, :, None] ^ across[w]) for w in (0, 1)]  # [block, width] each
            i, j = np.nonzero(sum(np.minimum(bits, 64 - bits) for bits in halves) <= radius)
            apart = np.bitwise_count(block[:, i] ^ across[:, j]).astype(np.int64)  # [WORDS, K]
            bits = np.where(_VIEWS, 64 - apart, apart).sum(axis=1).min(axis=0)  # [K]
            near = bits <= radius
            found.append(np.stack([rows[i[near] + top], columns[j[near] + start], bits[near]], axis=1))
    pairs = (every := np.concatenate(found))[np.lexsort(every.T[::-1])]  # by left, right, bits
    return pairs[np.diff(pairs[:, :2], axis=0, prepend=-1).any(axis=1)]  # the nearest view of each pair


def _cosines() -> NDArray[np.float64]:
    """The kept cosines over SIDE pixels [BAND, SIDE]; the constant one is not among them: brightness does not count."""
    frequency, pixel = np.arange(FIRST, FIRST + BAND)[:, None], np.arange(SIDE)[None] + 0.5
    return np.cos(np.pi / SIDE * frequency * pixel)


def _words(hashes: Sequence[str], turned: bool = False) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Positions [n] and bits [WORDS, n] of the hashes that are not empty, of the films a quarter ``turned`` or not.

    Mirroring changes the sign of every odd cosine. So each word holds one parity of both axes: a mirror image or a
    negative is the same word or its complement. Raises ValueError on a hash of another length.
    """
    kept = np.array([i for i, text in enumerate(hashes) if text], dtype=np.int64)
    foreign = next((hashes[i] for i in kept if len(hashes[i]) != 16 * WORDS), None)
    if foreign is not None:
        raise ValueError(f"'{foreign}' is no perceptual hash of this version; prepare the data sets again")
    data = np.frombuffer(bytes.fromhex("".join(hashes[i] for i in kept)), dtype=np.uint8)
    signs = np.unpackbits(data).reshape(-1, BAND // 2, 2, BAND // 2, 2)  # [n, y, parity of y, x, parity of x]
    by_parity = signs.transpose(0, 4, 2, 3, 1) if turned else signs.transpose(0, 2, 4, 1, 3)
    words = np.packbits(by_parity.reshape(-1, 64), axis=1).view(np.uint64)
    return kept, np.ascontiguousarray(words.reshape(-1, WORDS).T)
