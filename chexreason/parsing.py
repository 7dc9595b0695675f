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

A list is read in the forms that models write: commas, lines, "and"; headings, JSON, task lists, tables, "label: yes".
An item names a label only where nothing but names, a value and punctuation is in it. What is marked absent is no item;
what is denied in words ("no A, B or C", one item), hedged or listed under an odd heading is an unknown one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from chexreason.labels.schema import LabelSet, folded, plain
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
    items = _List(pieces[-2], label_set.by_name).items()
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
    are_plain = all(_List(label, {folded(label): label}).items() == [(label, (label,))] for label in labels)
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


_WRAPPING = " \t\f\v\u00a0\"'`“”\u2018\u2019[](){}.*_-\u2013"
_NUMBERING, _BULLET = re.compile(r"\d+[.):]\s*"), re.compile(r"\s*[-*•+\d]")
_LINE, _CLAUSE, _PIECE = re.compile(r"[^\n\r]+"), re.compile(r"[^;•]+"), re.compile(r"(?:[^,/]|(?<! )/|/(?! ))+")
# The language of a code block and the outer lines of a table: they say nothing.
_FENCE, _EDGE = re.compile(r"```([^\s`\[{]*)(?=\s*[\n\r\[{])"), re.compile(r"(?m)^[ \t]*\||\|[ \t]*$")
# Before the names of an item, and between them.
_START = re.compile(r"[\s\"'`\[\](){}.*_-]*(?:\d+[.)]|[1-9]\d*:)?[\s\"'`\[\](){}.*_-]*(?:(?:and|but|plus|also|&) )?")
_JOIN = re.compile(r"[\"'`*_ ]*(?:\b(?:and|plus|with|as well as)\b|[&+/]|\. |\(?[1-9]\d*[.)])[\"'`*_ ]*")
# The marks and words by which a form says that a label is present, or absent.
_MARK = re.compile(r"[\[(] ?([^\w\s)]|[xyn]|yes|no|) ?[\])]|([✓✔☑✅☐✗✘✖✕❌⬜])")
_BOX = re.compile(rf"[\s\"'`*_.-]*(?:\d+[.):] ?)?({_MARK.pattern})")
_PRESENT = re.compile(r"[✓✔☑✅+1y]|1\.0|yes|true|present|positive|detected|identified|confirmed|seen|found")
_ABSENT = re.compile(rf"[☐✗✘✖✕❌⬜0n-]|0\.0|non?e?|false|absent|negative|excluded|ruled out|not (?:{_PRESENT.pattern})")
_DENIAL = re.compile(
    r"\b(?:no|not|without|w/o|absen\w+|neither|nor|none|nothing|never|cannot|neg|negatives?|(?:clear|free|devoid) (?:of"
    r"|from)|except|all but|minus|rule[sd]?[ -]out|r/o|exclud\w+|reject\w+|discard\w+|den(?:y|ies|ied)|lack\w*|unlikely"
    r"|little|rather than|instead of|either|one of|sin|sans|pas|ohne|nicht|keine?|нет|не|без)\b|n't\b|[无無未没沒不否]"
)
# What is said of a whole list after it; headings of what is not said to be present, and of what is.
_VERDICT = re.compile(r"(?:all|both|none|neither|not|are|is)\b(?! (?:of the )?(?:other|remain|rest)).*")
_UNMEANT = re.compile(
    rf"{_DENIAL.pattern}|\b(?:normal|un\w+|possible|probable|likely|suspected|potential|differential|alternative"
    r"|considered|prior|previous|past|resolved)\b"
)
_ONE = "label|finding|diagnosis|condition|answer|impression|conclusion|solution"
_LISTED = rf"(?:(?:{_ONE}|positive)s?|diagnoses|abnormalities|present|detected|observed|definite|primary|secondary|yes)"
_HEADING = re.compile(
    rf"(?=.*\b{_LISTED}\b)(?:(?:{_LISTED}|the|my|all|list|of|here|are|is|following|final|key|main|pertinent|abnormal"
    r"|chexpert|chest|x-ray|image|radiographic|predicted|identified|selected)(?: |$))+"
)


def _bare(piece: str) -> str:
    """An item as written, without bullets, numbering, quotes, brackets and the final period."""
    item = piece.strip().strip(_WRAPPING)
    numbering = _NUMBERING.match(item)
    return item[numbering.end() :].strip(_WRAPPING) if numbering else item


def _means(word: str) -> bool | None:
    return True if _PRESENT.fullmatch(word) else False if _ABSENT.fullmatch(word) else None


def _lists(head: str) -> bool | None:
    """Whether a heading lists what is present; None where its words do not say."""
    return False if _UNMEANT.search(head) else True if _HEADING.fullmatch(head) else None


def _value(rest: str) -> bool | None:
    """What stands after a name: True for present or for nothing, False for absent, None for anything else."""
    text = rest.strip(" \"'`*_.")
    value = re.sub(r"\A-+>? ", "", text.lstrip(" :=>\"'`*_"))
    if box := _MARK.search(value):
        mark = box[1] or box[2] or "-"
        return None if box[0] != value else mark == "x" or _means(mark)
    word = value.strip(" \"'`*_.[](){}")
    if not word.strip("-") and value != "-":
        return None if set(text) & set(":=>") else True
    return _means(word) or (None if text[0].isalpha() else _means(word))  # "Edema absent" is a denial in words


def _said(key: str, names: Mapping[str, str]) -> tuple[tuple[str, ...], bool | None, bool]:
    """The labels that a piece opens with, whether it says that they are present, and whether it is names alone.

    Present is None where more is left beside names, box and value: the piece is no plain statement then.
    """
    if key in names:
        return (names[key],), True, True
    box = _BOX.match(key)
    ticked = _value(box[1]) if box else None
    start = box.end() if box and ticked is not None else 0
    text = _START.sub("", key[start:], count=1)
    labels, end, at = [], 0, 0
    while name := next((name for name in names if text.startswith(name, at)), ""):
        labels.append(names[name])
        end = at + len(name)
        at = join.end() if (join := _JOIN.match(text, end)) else len(text)
    has_two_marks = _MARK.search(key[start : len(key) - len(text)])
    present = None if has_two_marks or not labels else _value(text[end:])
    bare = bool(present) and ticked is None and not text[end:].strip(_WRAPPING)
    return tuple(labels), present and ticked is not False, bare


class _List:
    """One list as it is read: the items so far, each a stretch of the text with the labels that it names.

    ``meant`` is False under a heading such as "Absent:", None under one of other words. It holds to the end of its line
    (``in_line``); where a bracket or nothing follows the colon, to the next heading.
    """

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        self.text, self.names = text, names
        # Plain where that moves no character: separators and brackets are found at their place in the text.
        marked = text if text.isascii() else "".join(c if len(form := plain(c)) != 1 else form for c in text)
        marked = _FENCE.sub(lambda x: x[0] if folded(x[1]) in names else " " * len(x[0]), marked)
        self.marked = marked.replace("= [", ": [").replace("=[", ":[")
        self.found: list[tuple[int, int, tuple[str, ...]]] = []
        self.meant: bool | None = True
        self.in_line, self.is_headed, self.is_form = False, False, self.marked.count(":") > 1

    def items(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every item in order, as written, with the labels that it names; without labels it is an unknown one."""
        pieces = [piece.strip() for piece in self.text.split(",")]
        if all(piece.casefold() in self.names for piece in pieces):  # the form that is asked for
            return [(piece, (self.names[piece.casefold()],)) for piece in pieces]
        lines = list(_LINE.finditer(self.marked))
        rules = ["|" in line[0] and not folded(line[0]).strip(" |:+-") for line in lines] + [False]
        self.marked = _EDGE.sub(lambda edge: " " * len(edge[0]), self.marked).replace("|", "=")  # a row: "name = value"
        for number, line in enumerate(lines):
            self.meant, self.in_line = self.in_line or self.meant, False
            row = _said(folded(self.marked[slice(*line.span())]), self.names) if rules[number + 1] else None
            if row and (row[1] is None or row[2]):
                self.meant = not _UNMEANT.search(folded(line[0]))
            elif not rules[number]:
                for clause in _CLAUSE.finditer(self.marked, *line.span()):
                    self._clause(*clause.span())
                self._title(line, lines[number + 1 : number + 2])
        return [(item, labels) for start, end, labels in self.found if (item := _bare(self.text[start:end]))]

    def _clause(self, start: int, end: int) -> None:
        """Reads what stands between semicolons: "no A, B or C" is one unknown item, and "A, B and C are absent"."""
        first, bares, denied, ends_denied = len(self.found), [], False, False
        for piece in _PIECE.finditer(self.marked, start, end):
            begin = self._after_headings(*piece.span())
            key = folded(self.marked[begin : piece.end()])
            if denied and begin == piece.start():
                self.found[-1] = (self.found[-1][0], piece.end(), ())
            elif item := _bare(key):
                labels, present, bare = _said(key, self.names)
                if present is None or (present and self.meant is not False):
                    self.found.append((begin, piece.end(), labels if present and (self.meant or not bare) else ()))
                denial = None if bare else _DENIAL.search(key, key.rfind(". ") + 1)
                denied = bool(present is None and denial and any(x in key[denial.end() :] for x in self.names))
                of_all = denial and ((labels and "other" not in key[denial.start() :]) or _VERDICT.fullmatch(item))
                is_absent = present is False or _means(item) is False
                if is_absent and not labels and len(self.found) > 1 + self.is_headed * first:
                    self.found[-2:] = [(self.found[-2][0], piece.end(), ())]  # "Edema, 0"; "absent" below "Edema"
                ends_denied = is_absent or bool(of_all and not denied) or item.startswith("or ")
                bares.append(bare and begin == piece.start())
        if ends_denied and len(bares) > 1 and all(bares[:-1]):
            self.found[first:] = [(start, end, ())]

    def _title(self, line: re.Match[str], after: list[re.Match[str]]) -> None:
        """Takes a line without names for a heading of the lines after it, or for a verdict on the list before it."""
        key = folded(self.marked[slice(*line.span())])
        head = _bare(key.strip(f"#:{_WRAPPING}"))
        if not head or any(name in key for name in self.names):
            return
        is_title = key[0] == "#" or key[:2] == key[-2:] == "**" or key.strip("*_").endswith((":", " of", " for", " -"))
        is_above = bool(after and _BULLET.match(after[0][0])) and not _BULLET.match(line[0])
        if is_title or _lists(head) or _ABSENT.fullmatch(head) or (is_above and _lists(head) is False):
            self.meant, self.in_line, self.is_headed = _lists(head), False, True
        elif _VERDICT.fullmatch(head) and _DENIAL.search(head) and self.found and not self.is_headed:
            self.found = [(self.found[0][0], line.end(), ())]

    def _after_headings(self, start: int, end: int) -> int:
        """Where a piece goes on after its headings: ``{"labels": ["Edema"`` at the bracket."""
        while (colon := self.marked.find(":", start, min(start + 60, end))) >= 0:
            head = _bare(folded(self.marked[start:colon].replace("_", " ")).lstrip("# "))
            after = folded(self.marked[colon + 1 : min(colon + 40, end)]).lstrip(" \"'*_`")[:1]
            # A number, a row of a form; one "label: Edema" of many may be followed by "present: no".
            is_record = _lists(head) and head.endswith(tuple(_ONE.split("|"))) and after not in "[{" and self.is_form
            if is_record or head.startswith(tuple(self.names)) or (head.isdigit() and head.strip("0")):
                break
            self.meant, self.in_line, self.is_headed = _lists(head), after not in "[{", True
            if self.meant is None:
                break
            start = colon + 1
        return start
