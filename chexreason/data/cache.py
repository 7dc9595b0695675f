"""A cache of resized radiographs on disk, by content and size: a film of 5 megapixels is decoded and resized once."""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexreason.data.fingerprint import image_hash
from chexreason.data.image import load_image
from chexreason.files import write_bytes
from chexreason.types import Study

log = logging.getLogger(__name__)
CHECKSUM = 4  # bytes of CRC-32 that close an entry


class ImageCache:
    """``resize(load_image(path))`` of each study, from ``folder`` where it was made before.

    The SHA-256 of the image file and ``key``, which stands for all that ``resize`` depends on, name an entry. The file
    of a study without a hash is hashed each time. Entries are written whole, so workers and ranks may share a folder;
    an entry that does not match its checksum is written again. An entry holds height x width bytes (three times
    that for colour): 0.8 MB at 896 x 896. Nothing empties the folder: remove it to free the space. The hash is the
    manifest's: an image that was changed after its set was prepared is still shown as it was.
    """

    def __init__(self, folder: Path, resize: Callable[[Image.Image], Image.Image], key: str) -> None:
        self.folder, self.resize = Path(folder) / key, resize
        self._writable = True

    def load(self, study: Study) -> Image.Image:
        """The resized image as 8-bit RGB; raises ImageError where it must be read and cannot be."""
        sha256 = image_hash(study)
        path = self.folder / sha256[:2] / sha256
        pixels = _read(path) if sha256 else None
        if pixels is None:
            image = self.resize(load_image(study.image))
            if sha256:
                self._write(path, image)
            return image
        return Image.fromarray(pixels).convert("RGB")

    def _write(self, path: Path, image: Image.Image) -> None:
        """Adds an entry; a folder that cannot be written makes a slower run, not a failed one."""
        if not self._writable:
            return
        try:
            write_bytes(path, _pack(np.asarray(image)))
        except OSError as error:
            self._writable = False
            log.warning("the image cache %s takes no more (%s): images are resized each time", self.folder, error)


def _pack(pixels: NDArray[np.uint8]) -> bytes:
    """``pixels`` [H, W, 3] as a .npy file, of one channel where all are equal, closed by its checksum."""
    grey = (pixels == pixels[..., :1]).all()
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(pixels[..., 0] if grey else pixels), allow_pickle=False)
    data = buffer.getvalue()
    return data + zlib.crc32(data).to_bytes(CHECKSUM, "big")


def _read(path: Path) -> NDArray[np.uint8] | None:
    """The pixels of an entry, [H, W] or [H, W, 3]; None where there is none or it is damaged."""
    try:
        entry = path.read_bytes()
    except OSError:
        return None
    data, checksum = entry[:-CHECKSUM], entry[-CHECKSUM:]
    if zlib.crc32(data).to_bytes(CHECKSUM, "big") != checksum:
        return None
    pixels: NDArray[np.uint8] = np.load(io.BytesIO(data), allow_pickle=False)
    return pixels
