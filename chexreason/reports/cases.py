"""A stratified handful of studies to look at: image, truth and what each arm answered."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from chexreason.reports.pictures import thumbnail
from chexreason.statistics.predictions import datasets
from chexreason.types import Prediction

_KINDS = ("right", "wrong", "failed")
_TEXT_LIMIT = 4_000
_TAG = re.compile(r"(</?(?:think|solution|answer)>)")


@dataclass(frozen=True)
class CaseAnswer:
    """One arm's answer: label marks ("hit", "false", "missed") in reading order, and the text behind them.

    ``outside`` are labels it named that the study's source does not judge, ``unknown`` its items that are no labels,
    None where they were not recorded.
    """

    arm: str
    marks: tuple[tuple[str, str], ...]
    text: str
    n_tokens: int
    broken: str | None
    outside: tuple[str, ...]
    unknown: tuple[str, ...] | None

    def parts(self) -> list[tuple[str, str]]:
        """The text in pieces with what each is: "tag", "answer" (inside the last block) or "" (all else)."""
        pieces, opened = [], ""
        for piece in _TAG.split(self.text):
            if _TAG.fullmatch(piece):
                opened = piece
                pieces.append(("tag", piece))
            elif piece:
                pieces.append(("answer" if opened in ("<solution>", "<answer>") else "", piece))
        return pieces


@dataclass(frozen=True)
class Case:
    """One study as shown: ``image`` is a JPEG, or empty with the reason in ``image_note``.

    ``name`` is the study's id or, where identifiers are withheld, the data set and the study's place in it.
    """

    name: str
    dataset: str
    kind: str
    image: bytes
    image_note: str
    truth: tuple[str, ...]
    answers: tuple[CaseAnswer, ...]


def choose_cases(arms: Mapping[str, Sequence[Prediction]], n_cases: int, seed: int = 0) -> list[tuple[str, str]]:
    """(study id, kind) of up to ``n_cases`` studies that every arm answered, drawn evenly over data sets and kinds.

    A study is "failed" when some arm's answer is unreadable, else "right" or "wrong" by the last arm's label set; one
    without a judged label is neither, and left out. Drawn at random within each stratum: nobody picked them.
    """
    by_arm = [{p.study_id: p for p in predictions} for predictions in arms.values()]
    strata: dict[tuple[str, str], list[str]] = {}
    for study, last in by_arm[-1].items():
        if last.labelled and all(study in answers for answers in by_arm):
            kind = _kind([answers[study] for answers in by_arm])
            strata.setdefault((last.dataset, kind), []).append(study)
    rng = np.random.default_rng(seed)
    order = [(name, kind) for name in datasets(by_arm[-1].values()) for kind in _KINDS if (name, kind) in strata]
    queues = [[str(study) for study in rng.permutation(strata[key])] for key in order]
    # Rounds over the strata: the first study of each, then the second of each, ...
    rounds = [(study, key) for turn in zip_longest(*queues) for study, key in zip(turn, order, strict=True) if study]
    drawn = sorted(rounds[:n_cases], key=lambda pair: order.index(pair[1]))
    return [(study, kind) for study, (_, kind) in drawn]


def build_cases(
    arms: Mapping[str, Sequence[Prediction]],
    n_cases: int,
    *,
    seed: int = 0,
    images: bool = True,
    withheld: Collection[str] = (),
) -> list[Case]:
    """The chosen studies, with their images scaled down where ``images``; of ``withheld`` sets neither image nor id."""
    by_arm = {arm: {p.study_id: p for p in predictions} for arm, predictions in arms.items()}
    first = datasets(next(iter(arms.values())))
    places = {p.study_id: f"{name}-{i}" for name, rows in first.items() for i, p in enumerate(rows, start=1)}
    cases = []
    for study, kind in choose_cases(arms, n_cases, seed):
        answers = {arm: predictions[study] for arm, predictions in by_arm.items()}
        shown = next(iter(answers.values()))
        hidden = shown.dataset in withheld
        if hidden:
            image, note = b"", "set not declared public: image left out"
        else:
            image, note = thumbnail(shown.image) if images else (b"", "images left out of this report")
        cases.append(
            Case(
                name=places[study] if hidden else study,
                dataset=shown.dataset,
                kind=kind,
                image=image,
                image_note=note,
                truth=shown.truth,
                answers=tuple(_answer(arm, p) for arm, p in answers.items()),
            )
        )
    return cases


def _kind(answers: Sequence[Prediction]) -> str:
    if any(answer.broken is not None for answer in answers):
        return "failed"
    last = answers[-1]
    return "right" if set(last.predicted) & set(last.labelled) == set(last.truth) else "wrong"


def _answer(arm: str, prediction: Prediction) -> CaseAnswer:
    answered = () if prediction.broken is not None else prediction.predicted
    kept = [label for label in answered if label in prediction.labelled]
    marks = [(label, "hit" if label in prediction.truth else "false") for label in kept]
    missed = [(label, "missed") for label in prediction.truth if label not in kept]
    text = prediction.text
    if len(text) > _TEXT_LIMIT:
        text = f"{text[:_TEXT_LIMIT]} … ({len(text) - _TEXT_LIMIT} more characters in predictions.jsonl)"
    outside = tuple(label for label in prediction.named or () if label not in prediction.labelled)
    said = (prediction.n_tokens, prediction.broken, outside, prediction.unknown)
    return CaseAnswer(arm, (*marks, *missed), text, *said)
