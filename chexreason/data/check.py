"""The pass over all images of a data set: it reads, decodes and fingerprints each file once and records the result."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TextIO

from chexreason.data.fingerprint import VERSION, content_sha256, perceptual_hash
from chexreason.data.image import ImageError, load_image, opened
from chexreason.progress import Track, silent

_RECORDED = ("width", "height", "mode", "sha256", "phash")


@dataclass(frozen=True)
class ImageFacts:
    """What the pass found out about one file: ``reason`` says why the file cannot be read, "" where it can.

    ``width``, ``height`` (pixels) and ``mode`` (Pillow's, or "DICOM") are the file's own, before any conversion.
    """

    path: Path
    width: int = 0
    height: int = 0
    mode: str = ""
    sha256: str = ""
    phash: str = ""
    reason: str = ""


_Key = tuple[str, int, int]  # path, size and time of change (ns): a recorded image with the same key is not read again


def inspect_images(
    paths: Sequence[Path], record: Path | None = None, workers: int = 2, progress: Track = silent
) -> list[ImageFacts]:
    """Facts of every image, in the order of ``paths``, from ``workers`` threads (decoding releases the GIL).

    ``record`` is a JSON-lines file to which each readable image is added as soon as it is known, keyed by path, size
    and time of change: an interrupted or repeated pass reads only what is new or has changed. An image that could not
    be read is not recorded: the next pass reads it again.
    """
    known = _read_record(record) if record else {}
    with ThreadPool(max(1, workers)) as pool:  # on leaving, also by an interrupt, it drops what is queued
        tracked = progress(pool.imap(partial(_look, known=known), paths), len(paths))
        if record is None:
            return [facts for facts, _ in tracked]
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a", encoding="utf-8", buffering=1) as file:  # line by line: a killed pass keeps its work
            file.write("\n")  # closes a line that was cut short
            return [_remember(file, facts, key) for facts, key in tracked]


def _look(path: Path, known: dict[_Key, ImageFacts]) -> tuple[ImageFacts, _Key | None]:
    """Facts of one image, and the key to record them under; None where they are recorded already or unreadable."""
    try:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key in known:
            return replace(known[key], path=path), None
        return _facts(path, path.read_bytes()), key
    except ImageError as error:
        return ImageFacts(path, reason=error.why), None
    except FileNotFoundError:
        return ImageFacts(path, reason="no such file"), None
    except OSError as error:
        return ImageFacts(path, reason=error.strerror or str(error)), None


def _facts(path: Path, data: bytes) -> ImageFacts:
    image = load_image(path)  # opens the file again; the system still has it in memory
    try:
        with opened(io.BytesIO(data)) as file:
            mode, (width, height) = file.mode, file.size
    except ValueError:  # what load_image reads and Pillow does not
        mode, (width, height) = "DICOM", image.size
    return ImageFacts(path, width, height, mode, content_sha256(data), perceptual_hash(image))


def _remember(file: TextIO, facts: ImageFacts, key: _Key | None) -> ImageFacts:
    if key is not None:
        known = {name: getattr(facts, name) for name in _RECORDED}
        path, size, mtime_ns = key
        row = {"version": VERSION, "path": path, "size": size, "mtime_ns": mtime_ns, **known}
        file.write(json.dumps(row) + "\n")
    return facts


def _read_record(record: Path) -> dict[_Key, ImageFacts]:
    """What earlier passes recorded; a line that was cut short, or that another version wrote, is ignored."""
    known: dict[_Key, ImageFacts] = {}
    if not record.is_file():
        return known
    with record.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
                if row["version"] == VERSION:
                    facts = ImageFacts(Path(row["path"]), **{name: row[name] for name in _RECORDED})
                    known[row["path"], row["size"], row["mtime_ns"]] = facts
            except (ValueError, KeyError, TypeError):
                continue
    return known
