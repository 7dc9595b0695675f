"""One row a film that nobody labelled: what was answered, what cuts name, and what a reader should doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from chexreason.labels.schema import LabelSet
from chexreason.parsing import parse
from chexreason.statistics.metrics import BoolArray, FloatArray
from chexreason.types import Prediction


@dataclass(frozen=True)
class Cut:
    """What an operating point says of films: ``named`` and, made a possible set, ``coherent``, both [N, L].

    ``scores`` [N, L] are probabilities ``at_home``, at the ``hospital`` that the point was fitted at.
    """

    named: BoolArray
    coherent: BoolArray
    scores: FloatArray
    labels: tuple[str, ...]
    hospital: str
    at_home: bool


def film_rows(
    answers: Sequence[Prediction],
    films: Sequence[str],
    label_set: LabelSet,
    grammar: str,
    cut: Cut | None = None,
    unlike: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """A row a film, in order: ``row`` (from 1), ``film`` (its relative path) and what was answered.

    ``answer`` are all labels that the answer names; ``broken`` is the format rule that it breaks, ``unknown`` its items
    that are no labels. ``cut`` are the labels by the operating point, ``possible`` the nearest set that can be,
    ``differs`` those in one of answer and cut alone, ``score <label>`` or ``probability <label>`` what was cut.
    ``unlike`` says, by film, in what it is unlike the training films. Lists are tuples.
    """
    rows: dict[str, list[object]] = {"row": list(range(1, len(films) + 1)), "film": list(films)}
    own = [p.named or () for p in answers]
    rows["answer"] = list(own)
    if cut is not None:
        for name, array in (("cut", cut.named), ("possible", cut.coherent)):
            rows[name] = [tuple(x for x, on in zip(cut.labels, row, strict=True) if on) for row in array]
        pairs = zip(own, rows["cut"], strict=True)
        rows["differs"] = [tuple(x for x in label_set if (x in a) != (x in b)) for a, b in pairs]  # type: ignore[operator]
    rows["broken"] = [p.broken or "" for p in answers]
    rows["unknown"] = [p.unknown or () for p in answers]
    rows["unlike_training"] = [(unlike or {}).get(film, "") for film in films]
    if cut is not None:
        kind = "probability" if cut.at_home else "score"
        rows |= {f"{kind} {x}": column.tolist() for x, column in zip(cut.labels, cut.scores.T, strict=True)}
    rows["reasoning"] = [parse(p.text, label_set, grammar).think for p in answers]
    rows["text"] = [p.text for p in answers]
    return pd.DataFrame(rows)


def by_week(rows: pd.DataFrame, dates: pd.Series, labels: Sequence[str]) -> pd.DataFrame:
    """Calls by week: ``week`` (its Monday), ``label``, ``decision`` (answer or cut), ``films`` and ``rate``.

    ``dates`` are in the order of ``rows``.
    """
    weeks = pd.to_datetime(pd.Series(dates.to_numpy())).dt.to_period("W").dt.start_time.dt.date
    found = []
    for decision in ("answer", "cut"):
        for label in labels if decision in rows else ():
            named = rows[decision].map(lambda names, label=label: label in names)
            for week, inside in named.groupby(weeks):
                found.append((week, label, decision, len(inside), inside.mean()))
    return pd.DataFrame(found, columns=["week", "label", "decision", "films", "rate"])
