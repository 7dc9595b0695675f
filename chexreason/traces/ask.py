"""The vocabulary that teachers and their caller share: a question, a reply, a tariff, and a request without answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from chexreason.labels.schema import LabelSet
from chexreason.prompts import Prompt
from chexreason.types import Study

_CHARACTERS = 3.0  # of English text to a token, on the safe side


@dataclass(frozen=True)
class Question:
    """One request for one trace: the words and the JPEG that are sent, and the study that an offline teacher reads.

    ``attempt`` counts the answers to this study that were rejected before; ``image`` is None where none is sent.
    """

    study: Study
    prompt: Prompt
    label_set: LabelSet
    text: str
    image: bytes | None = None
    attempt: int = 0


@dataclass(frozen=True)
class Reply:
    """What a response says: the text of the answer, whether it was refused or cut off, the tokens that are billed."""

    text: str
    refused: bool = False
    cut: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(frozen=True)
class Tariff:
    """Prices in USD per million tokens (None: unknown), the tokens of one image, the most tokens of one answer."""

    usd_in: float | None = None
    usd_out: float | None = None
    image_tokens: int = 1100
    max_tokens: int = 1024

    def tokens_in(self, text: str, image: bool) -> float:
        """An estimate of the input tokens of a request, rather too high than too low."""
        return len(text) / _CHARACTERS + (self.image_tokens if image else 0)

    def usd(self, tokens_in: float, tokens_out: float) -> float:
        """The price of so many tokens; an unknown price counts as 0."""
        return ((self.usd_in or 0.0) * tokens_in + (self.usd_out or 0.0) * tokens_out) / 1e6


class Teacher(Protocol):
    """A writer of traces.

    ``ask`` returns the response's body as received and raises ``Unanswered``; ``read`` makes sense of a body and raises
    ValueError where it has none. They are apart so that a body is stored before anything looks into it. ``endpoint`` is
    "" for a teacher that sends nothing anywhere.
    """

    model: str
    endpoint: str
    tariff: Tariff
    sees_image: bool

    async def ask(self, question: Question) -> str: ...
    def read(self, body: str) -> Reply: ...
    async def close(self) -> None: ...


class Then(StrEnum):
    """The next step after a request that was not answered."""

    AGAIN = "again"  # after a pause
    SMALLER = "smaller"  # with a smaller image
    LEAVE = "leave"  # this study, until the command runs again
    STOP = "stop"  # the whole run: every other request would fare alike


class Unanswered(Exception):
    """A request that brought no answer: ``reason`` in a few words, what ``then``, the ``wait`` asked for in seconds.

    ``billed`` is True where the work may have been done and paid for, and the answer was lost on its way.
    """

    def __init__(
        self, reason: str, then: Then, *, wait: float | None = None, detail: str = "", billed: bool = False
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.then, self.wait, self.detail, self.billed = reason, then, wait, detail, billed
