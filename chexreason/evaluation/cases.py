"""A stratified handful of studies to look at: image, truth and what each arm answered."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from chexreason.data.image import ImageError, load_image
from chexreason.evaluation.predictions import datasets
from chexreason.types import Prediction

KINDS = ("right", "wrong", "failed")
_TEXT_LIMIT = 4_000
_SIDE = 320


@dataclass(frozen=True)
class Answer:
    """One arm's answer: label marks ("hit", "false", "missed") in reading order, and the text behind them."""

    arm: str
    marks: tuple[tuple[str, str], ...]
    text: str
    n_tokens: int
    broken: str | None


@dataclass(frozen=True)
class Case:
    """One study as shown: ``image`` is a data URI, or empty with the reason in ``image_note``."""

    study_id: str
    dataset: str
    kind: str
    image: str
    image_note: str
    truth: tuple[str, ...]
    answers: tuple[Answer, ...]


def choose(arms: Mapping[str, Sequence[Prediction]], n_cases: int, seed: int = 0) -> list[tuple[str, str]]:
    """(study id, kind) of up to ``n_cases`` studies that every arm answered, drawn evenly over data sets and kinds.

    A study is "failed" when some arm's answer is unreadable, else "right" or "wrong" by the last arm's label set.
    Drawn at random within each stratum: nobody picked them.
    """
    by_arm = [{p.study_id: p for p in predictions} for predictions in arms.values()]
    strata: dict[tuple[str, str], list[str]] = {}
    for study, last in by_arm[-1].items():
        if all(study in answers for answers in by_arm):
            kind = _kind([answers[study] for answers in by_arm])
            strata.setdefault((last.dataset, kind), []).append(study)
    rng = np.random.default_rng(seed)
    order = [(name, kind) for name in datasets(by_arm[-1].values()) for kind in KINDS if (name, kind) in strata]
    queues = [[str(study) for study in rng.permutation(strata[key])] for key in order]
    # Rounds over the strata: the first study of each, then the second of each, ...
    rounds = [(study, key) for turn in zip_longest(*queues) for study, key in zip(turn, order, strict=True) if study]
    drawn = sorted(rounds[:n_cases], key=lambda pair: order.index(pair[1]))
    return [(study, kind) for study, (_, kind) in drawn]


def build_cases(
    arms: Mapping[str, Sequence[Prediction]], n_cases: int, *, seed: int = 0, embed_images: bool = True
) -> list[Case]:
    """The chosen studies with their images scaled down and embedded."""
    by_arm = {arm: {p.study_id: p for p in predictions} for arm, predictions in arms.items()}
    cases = []
    for study, kind in choose(arms, n_cases, seed):
        answers = {arm: predictions[study] for arm, predictions in by_arm.items()}
        shown = next(iter(answers.values()))
        image, note = _embedded(shown.image) if embed_images else ("", "images left out of this report")
        cases.append(
            Case(
                study_id=study,
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


def _answer(arm: str, prediction: Prediction) -> Answer:
    answered = () if prediction.broken is not None else prediction.predicted
    kept = [label for label in answered if label in prediction.labelled]
    marks = [(label, "hit" if label in prediction.truth else "false") for label in kept]
    missed = [(label, "missed") for label in prediction.truth if label not in kept]
    text = prediction.text
    if len(text) > _TEXT_LIMIT:
        text = f"{text[:_TEXT_LIMIT]} … ({len(text) - _TEXT_LIMIT} more characters in predictions.jsonl)"
    return Answer(arm, (*marks, *missed), text, prediction.n_tokens, prediction.broken)


def _embedded(path: str) -> tuple[str, str]:
    """A data URI of the image scaled to ``_SIDE`` pixels, or the reason why there is none."""
    if not path:
        return "", "no image path in predictions.jsonl"
    try:
        image = load_image(Path(path)).convert("L")
    except ImageError:
        return "", "image not found or unreadable; did its folder move?"
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), ""
