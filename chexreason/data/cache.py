"""A cache of resized radiographs on disk, by content and size: a film of 5 megapixels is decoded and resized once."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexreason.data.fingerprint import hashed
from chexreason.data.image import load_image
from chexreason.files import read_checked, write_checked
from chexreason.owners import remove_leftovers
from chexreason.types import Study

log = logging.getLogger(__name__)


class ImageCache:
    """``resize(load_image(path))`` of each study, from ``folder`` where it was made before.

    The SHA-256 of the image file and ``key``, which stands for all that ``resize`` depends on, name an entry. The file
    of a study without a hash is hashed each time. An entry holds the pixels of the bytes that have its hash. Entries
    are written whole, so workers and ranks may share a folder; one that does not match its checksum is written again.
    It takes height x width bytes (three times that for colour): 0.8 MB at 896 x 896. Nothing empties the folder: remove
    it to free the space. An image that was changed since its set was prepared is shown as it was, or refused.
    """

    def __init__(self, folder: Path, resize: Callable[[Image.Image], Image.Image], key: str) -> None:
        self.folder, self.resize = Path(folder) / key, resize
        self._writable = True
        remove_leftovers(self.folder)

    def load(self, study: Study) -> Image.Image:
        """The resized image as 8-bit RGB; raises ImageError where it must be read and cannot be."""
        sha256 = hashed(study).image_sha256
        path = self.folder / sha256[:2] / sha256
        if sha256 and (entry := read_checked(path)) is not None:
            return Image.fromarray(np.load(io.BytesIO(entry), allow_pickle=False)).convert("RGB")
        image = self.resize(load_image(study.image, sha256))
        if sha256:
            self._write(path, image)
        return image

    def _write(self, path: Path, image: Image.Image) -> None:
        """Adds an entry; a folder that cannot be written makes a slower run, not a failed one."""
        if not self._writable:
            return
        try:
            write_checked(path, _pack(np.asarray(image)), self.folder)
        except OSError as error:
            self._writable = False
            log.warning("the image cache %s takes no more (%s): images are resized each time", self.folder, error)


def _pack(pixels: NDArray[np.uint8]) -> bytes:
    """``pixels`` [H, W, 3] as a .npy file, of one channel where all are equal."""
    grey = (pixels == pixels[..., :1]).all()
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(pixels[..., 0] if grey else pixels), allow_pickle=False)
    return buffer.getvalue()
