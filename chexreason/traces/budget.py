"""The cost of a run: the estimate before it starts, and the budget that it never exceeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chexreason.traces.ask import Tariff
from chexreason.traces.endpoint import is_loopback
from chexreason.traces.task import Limits, Task
from chexreason.types import Study

_TOKENS_PER_WORD = 1.5
_SECONDS = 8.0  # an answer takes where nothing was measured yet


class Budget:
    """USD that may be spent: ``reserve`` the highest cost of a request before it is sent, then ``settle`` its cost.

    Raises ValueError where the endpoint is not on this machine and its prices are not known.
    """

    def __init__(self, limit: float, spent: float, tariff: Tariff, endpoint: str) -> None:
        if endpoint and not is_loopback(endpoint) and None in (tariff.usd_in, tariff.usd_out):
            raise ValueError(
                f"the prices of {endpoint} are not set, and no budget can be kept without: teacher.tariff.usd_in= and "
                f"teacher.tariff.usd_out=, in USD per million tokens (0 where it is free)"
            )
        self.limit, self.spent, self.held = limit, spent, 0.0

    def reserve(self, usd: float) -> bool:
        """Reserves ``usd`` and returns True, or returns False where the budget has no room for it."""
        fits = usd == 0.0 or self.spent + self.held + usd <= self.limit
        self.held += usd if fits else 0.0
        return fits

    def settle(self, held: float, usd: float) -> None:
        """Replaces the reservation ``held`` for one request by its cost ``usd``."""
        self.held = max(0.0, self.held - held)
        self.spent += usd


@dataclass(frozen=True)
class Estimate:
    """Tokens, USD and seconds to ask ``n`` studies once; ``usd_most`` with all answers and retries at their limit."""

    n: int
    tokens_in: float
    tokens_out: float
    usd: float
    usd_most: float
    seconds: float

    def __str__(self) -> str:
        minutes = max(1, round(self.seconds / 60))
        return (
            f"{self.n:,} studies to ask: about {self.tokens_in / 1e3:,.0f} k tokens in, {self.tokens_out / 1e3:,.0f} k "
            f"out, {self.usd:.2f} USD (at most {self.usd_most:.2f}), {minutes:,} min"
        )


def estimate(
    task: Task, limits: Limits, studies: Sequence[Study], measured: tuple[float, float, float] | None
) -> Estimate:
    """The estimate for ``studies``; the text of the request about the first stands for all.

    ``measured`` holds the mean tokens in, tokens out and seconds of the answers so far. Without answers, the length of
    the reasoning that the instruction asks for gives the tokens.
    """
    n, tariff = len(studies), task.teacher.tariff
    most_in = tariff.tokens_in(task.text(studies[0]), task.teacher.sees_image)
    words = sum(task.instruction.words) / 2 if task.instruction else tariff.max_tokens
    guessed = most_in, min(words * _TOKENS_PER_WORD, tariff.max_tokens), _SECONDS
    tokens_in, tokens_out, seconds = measured or guessed
    together = n * seconds / max(1, min(limits.concurrency, n))
    return Estimate(
        n=n,
        tokens_in=n * tokens_in,
        tokens_out=n * tokens_out,
        usd=n * tariff.usd(tokens_in, tokens_out),
        usd_most=n * limits.attempts * tariff.usd(most_in, tariff.max_tokens),
        seconds=max(together, n * 60.0 / limits.per_minute) if limits.per_minute else together,
    )
