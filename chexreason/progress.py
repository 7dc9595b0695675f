"""Progress of a long loop: a bar on a terminal once it takes a while, one line in the log otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

T = TypeVar("T")
log = logging.getLogger(__name__)
PATIENCE = 2.0  # seconds before a bar appears: short loops should not flicker


class Track(Protocol):
    """What a long-running function takes as ``progress``: wraps an iterable of known length, passes its items on."""

    def __call__(self, iterable: Iterable[T], total: int, /) -> Iterable[T]: ...


def silent(iterable: Iterable[T], total: int) -> Iterable[T]:
    """Passes ``iterable`` on and shows nothing."""
    return iterable


def track(iterable: Iterable[T], total: int, description: str = "items") -> Iterator[T]:
    """Yields the items of ``iterable``; shows a bar on a terminal after 2 s, logs count and rate at the end elsewhere.

    Bind ``description`` with ``functools.partial`` to obtain a ``Track``.
    """
    start = time.perf_counter()
    terminal = sys.stderr.isatty()
    bar, task, done = None, TaskID(0), 0
    try:
        for item in iterable:
            yield item
            done += 1
            if terminal and bar is None and time.perf_counter() - start > PATIENCE:
                bar = _bar()
                task = bar.add_task(description, total=total)
                bar.start()
            if bar is not None:
                bar.update(task, completed=done)
    finally:
        if bar is not None:
            bar.stop()
        seconds = time.perf_counter() - start
        if not terminal:
            log.info("%s: %d of %d in %.1f s (%.1f/s)", description, done, total, seconds, done / max(seconds, 1e-9))


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
