"""The radiographs beside the cases of a report: small JPEGs, and whose may be shown at all."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from chexreason.data.credentialed import held_sets, named_agreement
from chexreason.data.image import ImageError, grey_file
from chexreason.types import Prediction

_FOLDER = "images"
_OURS = re.compile(r"[0-9a-f]{16}\.jpg")
_SIDE, _QUALITY = 320, 82  # pixels; of JPEG


def thumbnail(path: str) -> tuple[bytes, str]:
    """A JPEG of the image scaled to ``_SIDE`` pixels, or no bytes and the reason why there is none."""
    if not path:
        return b"", "no image path in predictions.jsonl"
    try:
        return grey_file(Path(path), _SIDE, quality=_QUALITY), ""
    except ImageError:
        return b"", "image not found or unreadable; did its folder move?"


def data_uri(jpeg: bytes) -> str:
    """The picture as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def file_address(jpeg: bytes) -> str:
    """The picture's address relative to the page: named by its content, so that no identifier is in it."""
    return f"{_FOLDER}/{hashlib.sha256(jpeg).hexdigest()[:16]}.jpg"


def forget_pictures(out: Path, shown: Iterable[bytes]) -> None:
    """Removes the pictures that earlier reports left below ``out``, except those ``shown``; no other file."""
    kept = {Path(file_address(jpeg)).name for jpeg in shown}
    for path in (out / _FOLDER).glob("*.jpg"):
        if _OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def withheld(
    arms: Mapping[str, Sequence[Prediction]], credentialed: Collection[str], agreement: str | None
) -> frozenset[str]:
    """The data sets of which neither picture nor identifier is shown: the credentialed ones, none under an agreement.

    Raises ValueError where ``agreement`` is given and names none.
    """
    held = held_sets((row for predictions in arms.values() for row in predictions), credentialed)
    if agreement is None or not held:
        return frozenset(held)
    if named_agreement(agreement) is None:
        raise ValueError(
            f"images of {', '.join(held)} are credentialed: name the agreement that lets this page show them, "
            f"allow_export='...' (found {agreement!r}), or leave it null to leave them out"
        )
    return frozenset()
