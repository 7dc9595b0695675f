"""How fast requests may go: a rate, pauses that all of them share, and back-off with jitter."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress


class Pace:
    """Spaces the starts of requests at ``per_minute`` (None: no limit) and holds all of them back where one is told to.

    ``halt`` wakes every waiter at once and for good.
    """

    def __init__(self, per_minute: float | None, base: float, longest: float, seed: int) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._base, self._longest = base, longest
        self._random = random.Random(seed)
        self._next = time.monotonic()
        self._halted = asyncio.Event()

    @property
    def halted(self) -> bool:
        """True once nothing new may start."""
        return self._halted.is_set()

    def halt(self) -> None:
        """Ends every wait; nothing new may start."""
        self._halted.set()

    def hold(self, seconds: float) -> None:
        """Lets no request start for so long: the endpoint asked for it."""
        self._next = max(self._next, time.monotonic() + seconds)

    async def turn(self) -> bool:
        """Waits for this request's turn; False where the run was halted meanwhile."""
        while not self.halted and (wait := self._next - time.monotonic()) > 0:
            await self.sleep(wait)  # the next turn may have moved away since
        self._next = max(self._next, time.monotonic()) + self._gap
        return not self.halted

    def backoff(self, failures: int) -> float:
        """Seconds before the next try after so many failures in a row: doubling up to the longest, with full jitter."""
        return self._random.uniform(0.0, min(self._longest, self._base * 2.0 ** min(failures, 32)))

    async def sleep(self, seconds: float) -> None:
        """Waits, unless halted."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._halted.wait(), seconds)
