"""A pass over all images of a manifest, before training meets the one that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from chexreason.data.image import ImageError, load_image
from chexreason.progress import Track, silent


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be read: its position in the list that was checked, its path and the reason."""

    index: int
    path: Path
    reason: str


def check_images(paths: Sequence[Path], workers: int = 2, progress: Track = silent) -> list[BadImage]:
    """Decodes every image in ``workers`` threads (decoding releases the GIL); returns the unreadable ones, in order."""
    pool = ThreadPoolExecutor(max_workers=max(1, workers))
    try:
        reasons = progress(pool.map(_reason, paths), len(paths))
        return [
            BadImage(i, path, why) for i, (path, why) in enumerate(zip(paths, reasons, strict=True)) if why is not None
        ]
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the images that are still queued


def _reason(path: Path) -> str | None:
    try:
        load_image(path)
    except ImageError as error:
        return error.why
    return None
