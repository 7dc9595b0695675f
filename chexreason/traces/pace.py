"""Request pacing: a rate limit, pauses that all requests share, and back-off with jitter."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress


class Pace:
    """Starts at most ``per_minute`` requests (None: no limit); a pause that one request is told to make holds for all.

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
        """Starts no request for ``seconds``, because the endpoint asks for the pause."""
        self._next = max(self._next, time.monotonic() + seconds)

    async def turn(self) -> bool:
        """Waits until this request may start; returns False where the run was halted in the meantime."""
        while not self.halted and (wait := self._next - time.monotonic()) > 0:
            await self.sleep(wait)  # the next turn may have moved away since
        self._next = max(self._next, time.monotonic()) + self._gap
        return not self.halted

    def backoff(self, failures: int) -> float:
        """Seconds before the next try after ``failures`` in a row: doubled up to the longest, with full jitter."""
        return self._random.uniform(0.0, min(self._longest, self._base * 2.0 ** min(failures, 32)))

    async def sleep(self, seconds: float) -> None:
        """Waits for ``seconds`` or until the run is halted."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._halted.wait(), seconds)
