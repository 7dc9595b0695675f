"""Are answers fit to be learned from: in form, with reasoning where it is asked for, and true to their studies?"""

from __future__ import annotations

from collections.abc import Sequence

from chexreason.labels.schema import LabelSet
from chexreason.parsing import BLOCKS, Grammar, parse
from chexreason.types import Sample

_SHOWN = 3  # examples of each kind of fault
DISAGREE = "labels that disagree with the study"  # the one kind of fault that is not of form


def check_answers(samples: Sequence[Sample], label_set: LabelSet, grammar: str | Grammar) -> None:
    """Refuses (ValueError) answers that would teach a wrong thing; samples without an answer are not looked at.

    One message lists every kind of fault with its count and first examples: a broken form, empty reasoning, text
    outside the blocks, unknown or repeated labels, labels other than the study's positive ones.
    """
    found: dict[str, list[str]] = {}
    for sample in samples:
        for kind, example in faults(sample, label_set, grammar):
            found.setdefault(kind, []).append(f"{sample.study.study_id}{example}")
    if not found:
        return
    n_answers = sum(sample.answer is not None for sample in samples)
    listed = "\n".join(f"  {kind}: {len(rows)}, e.g. {'; '.join(rows[:_SHOWN])}" for kind, rows in found.items())
    raise ValueError(
        f"answers to learn from have faults ({n_answers} looked at):\n{listed}\n"
        f"Mend these answers or leave their studies out"
    )


def faults(sample: Sample, label_set: LabelSet, grammar: str | Grammar) -> list[tuple[str, str]]:
    """Every fault of one answer: its kind, and what to show after the study's id."""
    if sample.answer is None:
        return []
    parsed = parse(sample.answer, label_set, grammar)
    if parsed.broken:
        return [(f"broken form ({parsed.broken})", f" {sample.answer[:40]!r}")]
    truth = label_set.decode(sample.study.target)
    odd = [*parsed.unknown, *parsed.duplicates]
    said, meant = ", ".join(parsed.labels) or "nothing", ", ".join(truth) or "nothing"
    rules = (
        ("empty reasoning", "think" in BLOCKS[Grammar.of(grammar)] and not parsed.think, ""),
        ("text outside the blocks", parsed.stray_blocks > 0, ""),
        ("unknown or repeated labels", bool(odd), f" {odd[:_SHOWN]}"),
        (DISAGREE, parsed.labels != truth, f" says {said} where the study has {meant}"),
    )
    return [(kind, example) for kind, is_fault, example in rules if is_fault]
