"""What a run asks, of whom, and what becomes of an answer: read, priced, judged, and judged again at each start."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chexreason.labels.schema import LabelSet
from chexreason.prompts import Prompt
from chexreason.traces.ask import Reply, Teacher
from chexreason.traces.instruction import Instruction
from chexreason.traces.store import TraceStore, Verdict
from chexreason.traces.verify import Fault, verify
from chexreason.types import Study


@dataclass(frozen=True)
class Task:
    """What is asked, of whom, for which pupil, under which agreement; ``side`` bounds the image in pixels."""

    teacher: Teacher
    instruction: Instruction
    prompt: Prompt
    label_set: LabelSet
    agreement: str | None = None
    side: int = 1024
    seed: int = 0

    @property
    def identity(self) -> dict[str, str]:
        """What makes two answers comparable: the database refuses a mixture."""
        words = "\n".join((self.instruction.text, self.instruction.retry, self.instruction.unjudged, self.prompt.text))
        return {
            "teacher": type(self.teacher).__name__,
            "model": self.teacher.model,
            "sees_image": str(self.teacher.sees_image),
            "prompt": self.prompt.name,
            "words": hashlib.sha256(words.encode()).hexdigest(),
            "labels": ", ".join(self.label_set),
        }

    def read(self, body: str) -> Reply:
        """What a body says, in Unicode a database can hold; raises ValueError where it makes no sense."""
        try:
            reply = self.teacher.read(body)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return replace(reply, text=reply.text.encode(errors="replace").decode())

    def cost(self, reply: Reply, most: float) -> float:
        """What an answer cost, by its own count of tokens; ``most`` where it does not count them."""
        if reply.tokens_in is None or reply.tokens_out is None:
            return most
        return self.teacher.tariff.usd(reply.tokens_in, reply.tokens_out)

    def judge(self, reply: Reply, study: Study) -> list[Fault]:
        """What is wrong with a reply; nothing where it is fit to learn from."""
        return verify(reply, study, self.label_set, self.prompt.grammar, self.instruction.words)


@dataclass(frozen=True)
class Limits:
    """How hard a teacher is asked.

    ``concurrency`` requests at a time, at most ``per_minute`` (None: no limit) and ``seconds`` long; ``attempts``
    answers to a study before it is set aside; ``retries`` of a request that failed on its way, after ``pause`` seconds,
    doubling up to ``longest_pause``; a ``Retry-After`` beyond ``longest_wait`` ends the run, as do ``give_up`` studies
    in a row without an answer.
    """

    concurrency: int = 8
    per_minute: float | None = None
    seconds: float = 120.0
    attempts: int = 3
    retries: int = 6
    pause: float = 1.0
    longest_pause: float = 60.0
    longest_wait: float = 900.0
    give_up: int = 8


def judge_again(task: Task, store: TraceStore, studies: Sequence[Study]) -> None:
    """Judges every stored answer about ``studies`` by the rules as they are now, the first that passes being accepted.

    What was settled for an answer stays: another price, or none, does not give the money back.
    """
    known = {study.study_id: study for study in studies}
    accepted: set[str] = set()
    verdicts = []
    for answer in store.answers():
        if answer.study_id not in known or answer.study_id in accepted:
            continue
        try:
            reply = task.read(answer.body)
        except ValueError:  # no answer, though it may have been paid for: the study is asked about again
            continue
        faults = task.judge(reply, known[answer.study_id])
        usd = answer.usd if answer.settled else task.cost(reply, answer.usd)
        verdicts.append(Verdict(answer.number, reply, faults, usd))
        accepted |= set() if faults else {answer.study_id}
    store.judged(verdicts, anew=known)
