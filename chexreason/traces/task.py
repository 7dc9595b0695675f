"""The task of a run: teacher, instruction and limits; how an answer is read, priced and judged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chexreason.labels.schema import LabelSet
from chexreason.prompts import Prompt, render
from chexreason.traces.ask import Reply, Teacher
from chexreason.traces.instruction import Instruction, compose
from chexreason.traces.store import TraceStore, Verdict
from chexreason.traces.verify import Fault, verify
from chexreason.types import Study


@dataclass(frozen=True)
class Task:
    """The teacher, its instruction, the prompt to write answers for, and the agreement under which data is sent.

    Without an ``instruction`` the prompt alone is asked, word for word, and every answer counts as it comes. ``side``
    is the largest side of the image that is sent, in pixels; ``asked_with`` is what else all answers must share.
    """

    teacher: Teacher
    instruction: Instruction | None
    prompt: Prompt
    label_set: LabelSet
    agreement: str | None = None
    side: int = 1024
    seed: int = 0
    asked_with: str = ""

    @property
    def identity(self) -> dict[str, str]:
        """The settings that all answers of one database share; the database refuses others."""
        own = self.instruction
        told = (own.text, own.retry, own.unjudged) if own else (render(self.prompt, self.label_set), self.asked_with)
        words = "\n".join((*told, self.prompt.text))
        return {
            "teacher": type(self.teacher).__name__,
            "model": self.teacher.model,
            "sees_image": str(self.teacher.sees_image),
            "prompt": self.prompt.name,
            "words": hashlib.sha256(words.encode()).hexdigest(),
            "labels": ", ".join(self.label_set),
        }

    def text(self, study: Study, faults: Sequence[Fault] = ()) -> str:
        """The words of a request; ``faults`` are those of the answer that was rejected last."""
        if self.instruction is None:
            return render(self.prompt, self.label_set)
        return compose(self.instruction, study, self.prompt, self.label_set, faults)

    def read(self, body: str) -> Reply:
        """The reply in a body, in Unicode that a database can hold; raises ValueError where there is none."""
        try:
            reply = self.teacher.read(body)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return replace(reply, text=reply.text.encode(errors="replace").decode())

    def cost(self, reply: Reply, most: float) -> float:
        """The cost of an answer in USD by its count of tokens; ``most`` where it has no count."""
        if reply.tokens_in is None or reply.tokens_out is None:
            return most
        return self.teacher.tariff.usd(reply.tokens_in, reply.tokens_out)

    def judge(self, reply: Reply, study: Study) -> list[Fault]:
        """The faults of a reply; empty where it is accepted."""
        if self.instruction is None:
            return []
        return verify(reply, study, self.prompt.answer_format(self.label_set), self.instruction.words)


@dataclass(frozen=True)
class Limits:
    """Limits on the requests to a teacher.

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
