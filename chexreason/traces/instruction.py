"""The instruction to a teacher: the words of conf/teacher_instruction/<arm>.yaml filled in, and the image shrunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chexreason.labels.schema import LabelSet
from chexreason.prompts import Prompt, placeholders, render
from chexreason.traces.verify import TRACE_RULES, Fault
from chexreason.types import Study


@dataclass(frozen=True)
class Instruction:
    """The words for one SFT arm, and how many words its reasoning may have, both bounds included.

    ``text`` holds ``{findings}`` and ``{prompt}`` (the pupil's words); ``unjudged`` with ``{labels}`` follows where
    nobody judged some of them, and ``retry`` with ``{reasons}`` where an answer was rejected before. ``form`` is the
    sentence of ``text`` that this arm alone has. Raises ValueError on other placeholders and on bounds out of order.
    """

    name: str
    text: str
    unjudged: str
    retry: str
    min_words: int
    max_words: int
    form: str = ""

    def __post_init__(self) -> None:
        for field, wanted in (("text", {"findings", "prompt"}), ("unjudged", {"labels"}), ("retry", {"reasons"})):
            found = set(placeholders(getattr(self, field)))
            if found != wanted:
                raise ValueError(
                    f"teacher_instruction={self.name}: {field} must hold exactly {sorted(wanted)}, "
                    f"found {sorted(found)}"
                )
        if not 0 < self.min_words <= self.max_words:
            raise ValueError(f"teacher_instruction={self.name}: min_words={self.min_words}, max_words={self.max_words}")

    @property
    def words(self) -> tuple[int, int]:
        """Bounds of the reasoning in words."""
        return self.min_words, self.max_words


def compose(
    instruction: Instruction, study: Study, prompt: Prompt, label_set: LabelSet, faults: Sequence[Fault] = ()
) -> str:
    """The text of one request; ``faults`` are those of the answer that was rejected last."""
    findings = ", ".join(label_set.decode(study.target))
    text = instruction.text.format(findings=findings, prompt=render(prompt, label_set)).strip()
    if unjudged := [label for label, known in zip(label_set, study.mask, strict=True) if not known]:
        text += "\n\n" + instruction.unjudged.format(labels=", ".join(unjudged)).strip()
    if not faults:
        return text
    reasons = "\n".join(f"- {TRACE_RULES[fault.rule]}{f': {fault.detail}' if fault.detail else ''}" for fault in faults)
    return f"{text}\n\n{instruction.retry.format(reasons=reasons).strip()}"
