"""Progress of a long run: a bar on a terminal once it takes a while, lines in the log elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chexreason.errors import printable

_T = TypeVar("_T")
log = logging.getLogger(__name__)
BAR_AFTER = 2.0  # seconds before a bar appears: short loops should not flicker
_LINE_EVERY = 30.0  # seconds between lines of the log


class BriefLines(logging.Formatter):
    """Lines for a terminal: the time of day, a word for what is wrong, the message."""

    def format(self, record: logging.LogRecord) -> str:
        word = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return f"{self.formatTime(record, '%H:%M:%S')} {word}{super().format(record)}"


class Meter:
    """Counts what is done of ``total``, as a context manager: ``meter(done, note)`` after each step.

    On a terminal a bar appears after 2 s; elsewhere the log gets a line every 30 s and one at the end, with the time
    that is left at the rate so far, or that it took. ``note`` follows the count; without one the line says the rate.
    What was done ``before`` is no part of the rate.
    """

    def __init__(self, total: int, description: str, before: int = 0) -> None:
        self._description = label = printable(description)
        self._total, self._done, self._note, self._before = total, before, "", before
        self._said = -1
        self._start = self._last_line = time.perf_counter()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True)) if sys.stderr.isatty() else None
        self._task = self._bar.add_task(label, total=total, completed=before, note="") if self._bar else None

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is None:
            if self._said != self._done:
                log.info("%s", self)
        elif self._bar.live.is_started:
            self._bar.stop()

    def __call__(self, done: int, note: str = "") -> None:
        """Shows that ``done`` are done."""
        self._done, self._note = done, printable(note)
        now = time.perf_counter()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=self._note)
            if now - self._start > BAR_AFTER:
                self._bar.start()
        elif now - self._last_line > _LINE_EVERY:
            self._last_line, self._said = now, done
            log.info("%s", self)

    def __str__(self) -> str:
        seconds, new = time.perf_counter() - self._start, self._done - self._before
        left = seconds * (self._total - self._done) / new if new > 0 else 0.0
        note = self._note or f"{new / max(seconds, 1e-9):.1f}/s"
        took = f"in {duration(seconds)}" if self._done >= self._total else f"about {duration(left)} left"
        return f"{self._description}: {self._done} of {self._total}, {note}, {took}"


def duration(seconds: float) -> str:
    """``8.4 s``, ``12.3 min`` or ``2.5 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Track(Protocol):
    """What a long-running function takes as ``progress``: wraps an iterable of known length, passes its items on."""

    def __call__(self, iterable: Iterable[_T], total: int, /) -> Iterable[_T]: ...


def silent(iterable: Iterable[_T], total: int) -> Iterable[_T]:
    """Passes ``iterable`` on and shows nothing."""
    return iterable


def track(iterable: Iterable[_T], total: int, description: str = "items", before: int = 0) -> Iterator[_T]:
    """Yields the items of ``iterable`` and shows how far the loop is; the first ``before`` were done earlier.

    Bind ``description`` with ``functools.partial`` to obtain a ``Track``.
    """
    with Meter(total, description, before) as meter:
        for done, item in enumerate(iterable, start=1):
            yield item
            meter(max(done, before))
