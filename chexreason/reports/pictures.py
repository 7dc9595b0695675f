"""The radiographs beside the cases of a report: small JPEGs, and whose may be shown at all."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from chexreason.data.credentialed import agreement_for, held_sets
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
    predictions: Collection[Prediction],
    public: Collection[str],
    agreement: str | None,
    declarations: Mapping[str, Mapping[str, str]],
) -> frozenset[str]:
    """The sets of which neither picture nor identifier is shown: those not ``public``, none under an agreement.

    A set is not that of the predictions where its ``declarations`` give another ``data_sha256``. Raises ExportError
    where ``agreement`` is given and names none.
    """
    known = {name: ("", told["data_sha256"]) for name, told in declarations.items()}  # "": none was recorded
    other = {row.dataset for row in predictions if row.data_sha256 not in known.get(row.dataset, (row.data_sha256,))}
    if agreement is None:
        return frozenset(held_sets(predictions, set(public) - other))
    way = "onto the page: leave allow_export null to leave out their pictures"
    agreement_for(predictions, set(public) - other, agreement, way)
    return frozenset()
