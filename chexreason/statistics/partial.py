"""What an unfinished evaluation has so far: JSON lines beside its result, to which each whole batch is added."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chexreason.files import write_bytes, written

BatchRows = list[dict[str, Any]]
_VERSION = 1  # of the file


def partial_path(result: Path) -> Path:
    """Where the batches of ``result`` are kept until it is written: predictions.partial.jsonl, scores.partial.jsonl."""
    return result.with_name(f"{result.stem}.partial.jsonl")


def holds_batch(path: Path) -> bool:
    """True where the file holds at least one whole batch, whatever it was made with."""
    header, *lines = path.read_bytes().split(b"\n")
    return any(True for _ in _whole(header.decode(errors="replace"), lines))


class Partial:
    """The batches of an evaluation in their order: those of an earlier attempt (``ahead``), then those still to make.

    The first line of the file is the header: what the batches were made of and with. Each further line is one batch
    and a hash of header, place and rows. A line that a kill cut short, that is damaged or in another place is no whole
    batch: it is dropped with all after it. Raises ValueError where a whole batch was ``made_with`` something else.
    """

    def __init__(self, result: Path, made_with: Mapping[str, Any]) -> None:
        self._path, self._done = partial_path(result), 0
        self._header = json.dumps({"version": _VERSION, **made_with}, sort_keys=True)
        before = self._path.read_bytes() if self._path.is_file() else b""
        first, *lines = before.split(b"\n")
        self.ahead = list(_whole(self._header, lines))
        if not self.ahead and before and holds_batch(self._path):
            then, now = json.loads(first), json.loads(self._header)
            changes = [f"{k}: {then.get(k)!r} -> {now.get(k)!r}" for k in now | then if then.get(k) != now.get(k)]
            raise ValueError(
                f"{self._path} holds batches that were made with other data or settings ({'; '.join(changes)}): undo "
                "the change, or say restart=true, which sets this run aside and begins again"
            )
        kept = [self._header.encode(), *(_line(self._header, i, rows) for i, rows in enumerate(self.ahead)), b""]
        if before != b"\n".join(kept):
            write_bytes(self._path, b"\n".join(kept))

    def batch(self, make: Callable[[], Sequence[Mapping[str, Any]]]) -> BatchRows:
        """The rows of the next batch: from an earlier attempt, or made now and on the disk when this returns."""
        if self.ahead:
            rows = self.ahead.pop(0)
        else:
            line = _line(self._header, self._done, make())
            with written(self._path), self._path.open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            rows = json.loads(line)["rows"]
        self._done += 1
        return rows


def _whole(header: str, lines: Sequence[bytes]) -> Iterator[BatchRows]:
    """The rows of the lines after ``header`` that are whole batches, up to the first line that is none."""
    for place, line in enumerate(lines):
        try:
            rows = json.loads(line)["rows"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if line != _line(header, place, rows):
            return
        yield rows


def _line(header: str, place: int, rows: Sequence[Mapping[str, Any]]) -> bytes:
    body = json.dumps(rows)
    sha256 = hashlib.sha256(f"{header}\n{place}\n{body}".encode()).hexdigest()[:16]
    return f'{{"sha256": "{sha256}", "rows": {body}}}'.encode()
