"""The answer format: the one place that reads it and the one place that writes it.

An answer is ``<think>…</think><solution>label, label</solution>`` (grammar ``think_solution``), the solution block
alone (``solution_only``), or ``<think>…</think><answer>label, label</answer>`` (``think_answer``, NV-Reason-CXR-3B's
own form). Tags count only as spelled here, and only those of the grammar asked for. Below and in the names of the
broken rules, "solution" is the block that holds the list. Our readings of what the paper leaves open:

- an empty solution is broken: the format asks for a list of labels, and a study with none of them is "No Finding";
- a solution of unknown labels only is valid and predicts nothing; each reward prices unknown labels its own way;
- an empty think block is valid: length is the reward's business;
- text outside the blocks is counted (``stray_blocks``), not broken;
- a broken answer predicts nothing, and its solution is not read at all.

A list that is not written as asked for is read in the forms that models write: see ``read_list``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from chexreason.labels.schema import Item, LabelSet, folded, plain, read_list
from chexreason.types import Parsed


class Grammar(StrEnum):
    """The answer formats a prompt can ask for."""

    THINK_SOLUTION = "think_solution"
    SOLUTION_ONLY = "solution_only"
    THINK_ANSWER = "think_answer"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"unknown answer grammar '{value}'; known: {', '.join(cls)}")


# The blocks of an answer in their order; the last one holds the list of labels.
BLOCKS = {
    Grammar.THINK_SOLUTION: ("think", "solution"),
    Grammar.SOLUTION_ONLY: ("solution",),
    Grammar.THINK_ANSWER: ("think", "answer"),
}


@dataclass(frozen=True)
class AnswerFormat:
    """The labels an answer may name and the grammar it is written in: what it takes to read one."""

    label_set: LabelSet
    grammar: Grammar

    def parse(self, text: str) -> Parsed:
        """The labels of one model output; never raises, see ``parse``."""
        return parse(text, self.label_set, self.grammar)


def parse(text: str, label_set: LabelSet, grammar: str | Grammar = Grammar.THINK_SOLUTION) -> Parsed:
    """Reads the labels out of one model output; never raises, whatever the text, and takes linear time.

    Labels are matched without regard to case and returned in label-set order. ``broken`` is None or one of
    no_solution, two_solutions, unclosed_solution, no_think, two_thinks, unclosed_think, unexpected_think,
    solution_before_think, misplaced_tag, empty_solution. Only an unknown ``grammar`` raises (ValueError).
    """
    blocks = BLOCKS[Grammar(grammar)]
    if broken := _broken_rule(text, blocks):
        return Parsed(labels=(), broken=broken)
    pieces = re.split(rf"</?(?:{'|'.join(blocks)})>", text)
    stray = sum(1 for piece in pieces[::2] if piece.strip() and plain(piece).strip())
    think = pieces[1].strip() if "think" in blocks else ""
    items = _items(pieces[-2], label_set.by_name)
    if not items:
        return Parsed(labels=(), stray_blocks=stray, broken="empty_solution", think=think)
    named = [(label, written) for written, labels in items for label in labels]
    first = {label: n for n, (label, _) in reversed([*enumerate(named)])}
    duplicates = tuple(written for n, (label, written) in enumerate(named) if first[label] != n)
    unknown = tuple(written for written, labels in items if not labels)
    return Parsed(tuple(label for label in label_set if label in first), unknown, duplicates, stray, think=think)


def format_answer(think: str, labels: Sequence[str], grammar: str | Grammar = Grammar.THINK_SOLUTION) -> str:
    """Writes the answer that ``parse`` reads back as ``labels``.

    Raises ValueError on no labels, on a label or reasoning the format cannot carry, and on reasoning in a grammar
    that has no place for it.
    """
    blocks = BLOCKS[Grammar(grammar)]
    listed = ", ".join(labels)
    tags = _tags(blocks)
    are_plain = all(_items(label, {folded(label): label}) == [(label, (label,))] for label in labels)
    if not labels or not are_plain or any(tag in listed for tag in tags):
        raise ValueError(f"the answer format cannot carry the labels {list(labels)}: need one or more plain names")
    if any(tag in think for tag in tags):
        raise ValueError(f"the reasoning holds a tag of the answer format: {think[:80]!r}")
    solution = f"<{blocks[-1]}>{listed}</{blocks[-1]}>"
    if "think" in blocks:
        return f"<think>{think}</think>\n{solution}"
    if think:
        raise ValueError(f"grammar '{grammar}' has no block for reasoning: {think[:80]!r}")
    return solution


def _items(body: str, names: Mapping[str, str]) -> list[Item]:
    """The items of a solution; ``names`` maps folded names to labels."""
    pieces = [piece.strip() for piece in body.split(",")]
    if all(piece.casefold() in names for piece in pieces):  # the form that is asked for
        return [(piece, (names[piece.casefold()],)) for piece in pieces]
    return read_list(body, names)


def _tags(blocks: Sequence[str]) -> tuple[str, str, str, str]:
    """The tags that count: reasoning is recognised, to be refused, in a grammar that has no place for it."""
    return "<think>", "</think>", f"<{blocks[-1]}>", f"</{blocks[-1]}>"


def _broken_rule(text: str, blocks: Sequence[str]) -> str | None:
    """Name of the first rule the tags in ``text`` break, or None."""
    tags = _tags(blocks)
    thought, end_thought, listing, end_listing = (text.count(tag) for tag in tags)
    found = sorted((tag for tag in tags if tag in text), key=text.find)
    thinks = "think" in blocks
    rules = (
        ("unexpected_think", not thinks and thought + end_thought > 0),
        ("no_think", thinks and thought == 0),
        ("unclosed_think", thinks and end_thought == 0),
        ("two_thinks", thinks and thought + end_thought > 2),
        ("no_solution", listing == 0),
        ("unclosed_solution", end_listing == 0),
        ("two_solutions", listing + end_listing > 2),
        ("solution_before_think", found == [*tags[2:], *tags[:2]]),
        ("misplaced_tag", found != [tag for block in blocks for tag in (f"<{block}>", f"</{block}>")]),
    )
    return next((name for name, is_broken in rules if is_broken), None)
