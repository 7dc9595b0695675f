"""Files that several processes share: atomic writes, of which a reader never sees a part, and locks."""

from __future__ import annotations

import fcntl
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, of the same suffix, that takes its place when the block ends without an error.

    The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data``."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_checked(path: Path, data: bytes) -> None:
    """Write ``data``, closed by its CRC-32 (4 bytes)."""
    write_bytes(path, data + zlib.crc32(data).to_bytes(4, "big"))


def read_checked(path: Path) -> bytes | None:
    """The data that ``write_checked`` wrote; None where the file is missing, unreadable, empty or damaged."""
    try:
        entry = path.read_bytes()
    except OSError:
        return None
    data = entry[:-4]
    sound = entry[-4:] == zlib.crc32(data).to_bytes(4, "big")
    return data if data and sound else None  # four zeros are the checksum of nothing


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write strict JSON; raises ValueError on NaN or infinity, which no strict reader takes."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def finite(node: Any) -> Any:
    """A copy in which every NaN and infinity is None: strict JSON has neither."""
    if isinstance(node, Mapping):
        return {str(key): finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


@contextmanager
def locked(path: Path, refusal: Exception) -> Iterator[None]:
    """Hold a lock file until the block or the process ends; raises ``refusal`` where another process holds it."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise refusal from None
        yield
