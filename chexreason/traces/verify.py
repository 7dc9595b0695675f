"""Verifies a teacher's answer: its form, its labels, and reasoning that betrays and invents nothing."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from chexreason.labels.schema import plain
from chexreason.parsing import BLOCKS, AnswerFormat
from chexreason.traces import lexicon
from chexreason.traces.answer_faults import DISAGREE, answer_faults
from chexreason.traces.ask import Reply
from chexreason.types import Study

_ENGLISH_SHARE = 0.05  # of the words; below it, or where another language's function words are more, it is no English
_QUOTED = 60  # characters of the text that are quoted back
# Patterns know one space; a line that goes on in small letters is one sentence with the line before.
_BROKEN_LINE = re.compile(r"(?<=[\w,])[ \t]*\n[ \t]*(?=[a-z])|[ \t]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule that an answer breaks; ``detail`` says where, also to the teacher when it is asked again."""

    rule: str
    detail: str


# Every rule in the order of the report: its name there, and the words that tell the teacher what to change.
TRACE_RULES = {
    "refused": "the request was declined",
    "empty": "the answer was empty",
    "cut off": "the answer did not end within the length limit",
    "form": "the answer does not have the form asked for",
    "labels": "the solution does not list exactly the findings that apply",
    "betrays the answer": "the reasoning speaks of being given the findings",
    "invents a prior exam": "the reasoning compares with an examination that is not there",
    "invents a date": "the reasoning gives a date or a time",
    "invents a person": "the reasoning names a person or a history that no image shows",
    "language": "the reasoning is not in English",
    "too short": "the reasoning is too short",
    "too long": "the reasoning is too long",
    "sign missing": "the reasoning does not affirm a sign of every finding",
}
_FORBIDDEN = {
    "betrays the answer": lexicon.BETRAYALS,
    "invents a prior exam": lexicon.PRIORS,
    "invents a date": lexicon.DATES,
    "invents a person": lexicon.NAMES,
}


def verify(reply: Reply, study: Study, answer_format: AnswerFormat, words: tuple[int, int]) -> list[Fault]:
    """Every rule of ``TRACE_RULES`` that the answer breaks, once each; empty where it is fit to learn from.

    ``words`` bounds the words of the reasoning, both included. An answer that is refused, empty, cut off or out of form
    is not looked into further.
    """
    for rule, broken in (("refused", reply.refused), ("empty", not plain(reply.text).strip()), ("cut off", reply.cut)):
        if broken:
            return [Fault(rule, reply.text.strip()[:_QUOTED])]
    positive = answer_format.label_set.decode(study.target)
    found = answer_faults(reply.text, positive, answer_format)  # the rules that training checks again
    wrong_form = "; ".join(f"{kind} {detail}".rstrip() for kind, detail in found if kind != DISAGREE)
    form = [Fault("form", wrong_form)] if wrong_form else []
    labels = [Fault("labels", detail) for kind, detail in found if kind == DISAGREE]
    written = answer_format.parse(reply.text).think
    think = _BROKEN_LINE.sub(" ", plain(written))
    if form or "think" not in BLOCKS[answer_format.grammar]:
        return form + labels
    said = [*_forbidden(think, written), *_language(think, written)]
    return [*labels, *said, *_length(think, words), *_signs(think, positive)]


def _forbidden(think: str, written: str) -> list[Fault]:
    faults, blank = [], lambda denied: re.sub(r"\S", "\0", denied[0])
    for rule, patterns in _FORBIDDEN.items():
        # Only here: a sentence that denies a prior film may still give the answer away.
        told = _any((lexicon.NO_PRIOR,)).sub(blank, think) if patterns is lexicon.PRIORS else think
        if match := _any(patterns).search(told):
            faults.append(Fault(rule, _around(written, told, match)))
    return faults


def _language(think: str, written: str) -> list[Fault]:
    english, foreign = (len(_any((words,)).findall(think)) for words in (lexicon.ENGLISH, lexicon.FOREIGN))
    wrong = foreign > english or english < _ENGLISH_SHARE * len(think.split())
    return [Fault("language", written[:_QUOTED])] if wrong else []


def _length(think: str, words: tuple[int, int]) -> list[Fault]:
    n_words, (low, high) = len(think.split()), words
    if low <= n_words <= high:
        return []
    return [Fault("too short" if n_words < low else "too long", f"{n_words} words where {low} to {high} are asked for")]


def _signs(think: str, positive: Iterable[str]) -> list[Fault]:
    missing = unmentioned(think, positive)
    return [Fault("sign missing", f"of {', '.join(missing)}")] if missing else []


def unmentioned(think: str, labels: Iterable[str]) -> list[str]:
    """The labels of which the reasoning affirms no sign: it does not mention them, or denies them."""
    clauses = _any((lexicon.CLAUSE,)).split(_BROKEN_LINE.sub(" ", plain(think)))
    return [label for label in labels if not any(_affirms(clause, label) for clause in clauses)]


def _affirms(clause: str, label: str) -> bool:
    """True where the clause shows or names the label and does not deny it."""
    for match in _any((lexicon.SIGNS[label],)).finditer(clause):
        before, after = clause[: match.start()], clause[match.end() :]
        if label == "No Finding":  # denials are what affirms it: "no effusion, the lungs are clear"
            denied = _any((lexicon.DENIES_NORMAL,)).search(before)
        else:
            denied = _any((lexicon.DENIES_AFTER,)).search(before) or _any((lexicon.DENIES_BEFORE,)).search(after)
        if not denied:
            return True
    return False


@cache
def _any(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


def _around(written: str, form: str, match: re.Match[str]) -> str:
    """The match with a few words on each side, as written: found again by the characters of its form but spaces."""
    start, end = max(0, match.start() - 20), match.end() + 20
    before, upto = (len("".join(form[:place].split())) for place in (start, end))
    ends = list(accumulate(len("".join(plain(character).split())) for character in written))  # of each character
    return f"'{' '.join(written[bisect_right(ends, before) : bisect_left(ends, upto) + 1].split())}'"
