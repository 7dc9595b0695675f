"""Image files in a vendor's tree of folders: which file a name in a csv means, and which files are no films at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

import pandas as pd

_SUFFIX = r"(?i:\.(?:png|jpe?g|tiff?|bmp|dcm|dicom|gif|webp|jp2)$)"  # the decoder says which of them are no films
_FILM = re.compile(rf".+{_SUFFIX}|[^.]+$|.+\.\d+$")  # a DICOM file may have no suffix
_NO_FILMS = (".", "__MACOSX")  # begin macOS's twins (._1.png), caches, bins, the copies of a notebook
Where = tuple[pd.Series, pd.Series]  # the file of each row, and the places of a row with two


@dataclass(frozen=True)
class VendorFolder:
    """A data set in a local folder, laid out as its vendor ships it."""

    name: str
    root: Path

    @property
    def image_root(self) -> Path:
        """The vendor's folder, absolute: images stay where they are."""
        return Path(self.root).resolve()


def without_suffix(name: str) -> str:
    """``name`` without an image file's suffix; "1.2.840.113" and "st.john_1" have none."""
    return re.sub(_SUFFIX, "", name)


def films(root: Path, folders: str = "*") -> dict[str, list[str]]:
    """The posix paths under ``root`` of all image files of a name without suffix.

    Looked into are the root and the folders whose names fit the pattern ``folders``, down to any depth.
    """
    at: dict[str, list[str]] = {}
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = sorted(n for n in inner if fnmatch(n.casefold(), folders) and not n.startswith(_NO_FILMS))
        if (real := os.path.realpath(folder)) in seen:  # a link to a folder that was seen, or to one above
            inner.clear()
            continue
        seen.add(real)
        prefix = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        for name in sorted(names):
            if _FILM.match(name) and not name.startswith(_NO_FILMS):
                at.setdefault(without_suffix(name), []).append(prefix + name)
    return at


def located(root: Path, paths: pd.Series, folders: str = "") -> Where:
    """The file under ``root`` of each path [N] of a csv; where two fit, both of them, else "".

    A path that names no file may have another suffix or none; a bare name may lie in any folder. What fits no file
    stays as it is: whoever reads it says so. With ``folders`` (see ``films``) all are looked for, and None is no file.
    """
    lost = [path for path in paths.unique() if folders or not os.path.isfile(os.path.join(root, path))]
    known = films(root, folders or "*") if lost else {}
    one: dict[str, str | None] = dict.fromkeys(lost) if folders else {}
    two: dict[str, str] = {}
    for path in lost:
        folder, name = os.path.split(path)
        fits = [film for film in known.get(without_suffix(name), ()) if folder in ("", os.path.dirname(film))]
        if fits:
            one[path] = fits[0]
        if len(fits) > 1 and len({os.path.realpath(root / film) for film in fits}) > 1:
            two[path] = " and ".join(fits[:2])
    return paths.map(lambda path: one.get(path, path)), paths.map(lambda path: two.get(path, ""))


def found(root: Path, names: Sequence[str], way_out: str = "") -> Path:
    """The first of the files ``names`` that is in ``root``; raises FileNotFoundError that says where one lies."""
    there = next((root / name for name in names if (root / name).is_file()), None)
    if there is None:
        root = root.resolve()
        raise FileNotFoundError(f"no {' or '.join(names)} in {root}{elsewhere(root, names, way_out)}")
    return there


def elsewhere(root: Path, names: Iterable[str], way_out: str) -> str:
    """Where one of ``names`` lies in the folder above ``root`` or up to two below, else ``way_out``."""
    for folder in chain([root.parent], root.glob("*/"), root.glob("*/*/")):
        if any((folder / name).is_file() for name in names) and "/." not in folder.as_posix():
            return f"; it lies in {folder}: set root to that"
    return way_out
