"""How a run gets on: a bar with rate and spend on a terminal, a line in the log every half minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
_EVERY = 30.0  # seconds between lines of the log


class Meter:
    """Counts accepted and rejected answers against the ``total`` studies to ask; used as a context manager."""

    def __init__(self, total: int) -> None:
        self._total, self._accepted, self._answers, self._usd = total, 0, 0, 0.0
        self._start = self._told = time.monotonic()
        columns = (
            TextColumn("traces"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("traces", total=total, rate="")

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._answers:
            log.info("%s", self)

    def __call__(self, usd: float, accepted: bool | None) -> None:
        """After one request: USD spent so far, and the verdict, None where no answer came."""
        self._usd = usd
        self._answers += accepted is not None
        self._accepted += bool(accepted)
        self._bar.update(self._task, completed=self._accepted, rate=self._rate())
        if self._bar.disable and time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            log.info("%s", self)

    def __str__(self) -> str:
        return f"traces: {self._accepted:,} of {self._total:,} accepted, {self._rate()}"

    def _rate(self) -> str:
        minutes = (time.monotonic() - self._start) / 60
        return f"{self._answers / max(minutes, 1e-9):,.0f} answers/min, {self._usd:.2f} USD"
