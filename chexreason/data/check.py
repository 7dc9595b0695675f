"""The pass over all images of a data set: it reads, decodes and fingerprints each file once and records the result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from chexreason.data.fingerprint import VERSION, content_sha256, perceptual_hash
from chexreason.data.image import ImageError, decode, read_film
from chexreason.progress import Track, silent

_RECORDED = ("transparent", "sha256", "phash")
_WHERE = ("path", "size", "mtime_ns", "ctime_ns")  # of content and status: such an image is not read again
_Key = tuple[str, int, int, int]


@dataclass(frozen=True)
class ImageFacts:
    """What the pass found out about one file: ``reason`` says why the file cannot be read, "" where it can.

    ``transparent`` is the file before any conversion; a ``phash`` of "" is a blank picture.
    """

    path: Path
    transparent: bool = False
    sha256: str = ""
    phash: str = ""
    reason: str = ""


def inspect_images(
    paths: Sequence[Path], record: Path | None = None, workers: int = 2, progress: Track = silent
) -> list[ImageFacts]:
    """Facts of every image, in the order of ``paths``, from ``workers`` threads (decoding releases the GIL).

    ``record`` is a JSON-lines file to which each readable image is added as soon as it is known, keyed by path, size
    and times of change: an interrupted or repeated pass reads only what is new or has changed. An image that could not
    be read is not recorded: the next pass reads it again.
    """
    known = _read_record(record) if record else {}
    found, file = [], None
    with ExitStack() as closed, ThreadPool(max(1, workers)) as pool:  # the pool drops what is queued on an interrupt
        for facts, key in progress(pool.imap(partial(_look, known=known), paths), len(paths)):
            if record and key and file is None:
                record.parent.mkdir(parents=True, exist_ok=True)
                file = closed.enter_context(record.open("a", encoding="utf-8", buffering=1))
                file.write("\n")  # closes a line that was cut short
            if file and key:
                own = dict(zip(_WHERE, key, strict=True)) | {name: getattr(facts, name) for name in _RECORDED}
                file.write(json.dumps({"version": VERSION, **own}) + "\n")  # a killed pass keeps its work
            found.append(facts)
    return found


def _look(path: Path, known: dict[_Key, ImageFacts]) -> tuple[ImageFacts, _Key | None]:
    """Facts of one image, and the key to record them under; None where they are recorded already or unreadable."""
    try:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except OSError:
        key = None  # reading it says why
    if key in known:
        return replace(known[key], path=path), None
    try:
        data = read_film(path)
        image = decode(path, data)
        return ImageFacts(path, "transparent" in image.info, content_sha256(data), perceptual_hash(image)), key
    except ImageError as error:
        return ImageFacts(path, reason=error.why), None


def _read_record(record: Path) -> dict[_Key, ImageFacts]:
    """What earlier passes recorded; a line that was cut short, or that another version wrote, is ignored."""
    known: dict[Any, ImageFacts] = {}
    if not record.is_file():
        return known
    with record.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
                if row["version"] == VERSION:
                    facts = ImageFacts(Path(row["path"]), **{name: row[name] for name in _RECORDED})
                    known[tuple(row[name] for name in _WHERE)] = facts
            except (ValueError, KeyError, TypeError):
                continue
    return known
