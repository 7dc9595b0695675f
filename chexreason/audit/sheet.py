"""Pictures for the audit page: a few radiographs drawn by seed, and the file formats of a larger draw."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from chexreason.data.image import ImageError, grey_file, opened
from chexreason.data.leakage import Leak
from chexreason.data.manifest import Manifest
from chexreason.data.sampling import random_order
from chexreason.labels.catalog import CHEXPERT14

N_HEADERS = 200  # files a set whose header is read: enough to see a mixture, few enough for a network disk
N_FORMATS = 6  # commonest formats named
_SIDE = 176  # pixels of the longer side of an embedded picture
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """One picture of the contact sheet; ``image`` is a data URI, or "" and ``note`` says why there is none."""

    study_id: str
    caption: str
    labels: tuple[str, ...]
    image: str
    note: str


def contact_sheet(manifests: Mapping[str, Manifest], n: int, seed: int) -> list[Picture]:
    """At most ``n`` rows in all, as many of each set as it has and its share allows, whatever the order of rows."""
    pictures: list[Picture] = []
    for place, manifest in enumerate(manifests.values()):
        share = (n - len(pictures)) // (len(manifests) - place)
        drawn = drawn_rows(manifest.frame, share, seed)
        pictures += [_picture(manifest, drawn.iloc[i]) for i in range(len(drawn))]
    return pictures


def look_alikes(manifests: Mapping[str, Manifest], leaks: Sequence[Leak], n: int) -> list[tuple[Picture, ...]]:
    """The first ``n`` pairs of near pictures that ``leaks`` name, of those of which ``manifests`` have both sets."""
    shown = [leak for leak in leaks if {leak.one, leak.other} <= set(manifests)]
    named = [zip((leak.one, leak.other), pair, strict=True) for leak in shown for pair in leak.pairs][:n]
    frames = {name: manifest.frame.set_index("study_id", drop=False) for name, manifest in manifests.items()}
    return [tuple(_picture(manifests[name], frames[name].loc[study]) for name, study in pair) for pair in named]


def formats(manifest: Manifest, seed: int) -> dict[str, Any]:
    """Size, mode and file type of up to ``N_HEADERS`` images, from their headers alone."""
    rows = drawn_rows(manifest.frame, N_HEADERS, seed)
    counts = Counter(_format(manifest.root / path) for path in rows["path"])
    unreadable = counts.pop("", 0)
    common = dict(counts.most_common(N_FORMATS))
    rest = counts.total() - sum(common.values())
    return {"drawn": len(rows), "unreadable": unreadable, "formats": common | ({"other": rest} if rest else {})}


def drawn_rows(frame: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """At most ``n`` rows without replacement, in the order of ``study_id``."""
    return frame.iloc[random_order(frame["study_id"].tolist(), seed)[:n]].sort_values("study_id")


def _picture(manifest: Manifest, row: pd.Series) -> Picture:
    try:
        jpeg = grey_file(manifest.root / row["path"], _SIDE, sha256=row.get("sha256", ""), quality=_QUALITY)
        image, note = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(), ""
    except ImageError as error:
        image, note = "", error.why
    age = "" if pd.isna(row["age"]) else f"{int(row['age'])} y"
    caption = " · ".join(part for part in (row["split"], row["view"], age, row["sex"]) if part)
    labels = tuple(label for label in CHEXPERT14.labels if row[label] == 1.0)
    uncertain = tuple(f"{label}?" for label in CHEXPERT14.labels if row[label] == -1.0)
    return Picture(row["study_id"], caption, labels + uncertain, image, note)


def _format(path: Path) -> str:
    """ "PNG L 320x320" of a file, "" where it cannot be opened as an image."""
    try:
        with opened(path) as file:
            return f"{file.format} {file.mode} {file.width}x{file.height}"
    except Exception:  # as Pillow's many; DICOM too: its header says nothing about how it will be shown
        return ""
