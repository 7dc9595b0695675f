"""Checks of the answers that training learns from: their form, their reasoning, their labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from chexreason.labels.schema import plain
from chexreason.parsing import BLOCKS, AnswerFormat
from chexreason.types import Sample

_SHOWN = 3  # examples of each kind of fault
# The kinds of fault; one of form goes on with the rule that is broken, in brackets.
BROKEN, EMPTY, STRAY = "broken form", "empty reasoning", "text outside the blocks"
ODD, DISAGREE = "unknown or repeated labels", "labels that disagree with the study"


def check_answers(samples: Sequence[Sample], answer_format: AnswerFormat) -> None:
    """Raises ValueError on answers that would teach something wrong; samples without an answer are not checked.

    One message lists every kind of fault with its count and first examples: a broken form, empty reasoning, text
    outside the blocks, unknown or repeated labels, labels other than the study's positive ones.
    """
    answered = [(sample.study, sample.answer) for sample in samples if sample.answer is not None]
    found: dict[str, list[str]] = {}
    for study, answer in answered:
        for kind, detail in answer_faults(answer, answer_format.label_set.decode(study.target), answer_format):
            found.setdefault(kind, []).append(f"{study.study_id} {detail}".rstrip())
    if found:
        listed = "\n".join(f"  {kind}: {len(rows)}, e.g. {'; '.join(rows[:_SHOWN])}" for kind, rows in found.items())
        raise ValueError(
            f"answers to learn from have faults ({len(answered)} looked at):\n{listed}\n"
            f"Mend these answers or leave their studies out"
        )


def answer_faults(answer: str, truth: Collection[str], answer_format: AnswerFormat) -> list[tuple[str, str]]:
    """Kind and detail of every fault of an answer about a study with the positive labels ``truth``.

    An answer whose form is broken is not looked into further.
    """
    parsed = answer_format.parse(answer)
    if parsed.broken:
        return [(f"{BROKEN} ({parsed.broken})", f"{answer[:40]!r}")]
    odd = [*parsed.unknown, *parsed.duplicates]
    said = ", ".join(parsed.labels) or "nothing"
    meant = ", ".join(label for label in answer_format.label_set if label in truth) or "nothing"
    rules = (
        (EMPTY, "think" in BLOCKS[answer_format.grammar] and not plain(parsed.think).strip(), ""),
        (STRAY, parsed.stray_blocks > 0, ""),
        (ODD, bool(odd), f"{odd[:_SHOWN]}"),
        (DISAGREE, set(parsed.labels) != set(truth), f"says {said} where the study has {meant}"),
    )
    return [(kind, detail) for kind, is_fault, detail in rules if is_fault]
