"""Predictions on disk (JSON lines), and as the boolean arrays every score is computed from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from chexreason.files import write_text
from chexreason.labels.schema import LabelSet
from chexreason.statistics.metrics import BoolArray, FloatArray
from chexreason.types import Completion, Prediction, Study

VOCABULARY = ("unknown_rate", "no_label_rate")  # answers with an item that is no label; with such items alone
_REQUIRED = ("study_id", "patient_id", "dataset", "text", "predicted", "truth", "labelled")
_LISTS = ("predicted", "truth", "labelled", "named", "unknown")
_TEXTS = ("study_id", "patient_id", "dataset", "text", "broken", "image", "policy", "data_sha256")
_DROPPED = ("extra",)  # written before policy and data_sha256 were: such files stay readable, both unknown
_VERSION = 2  # of a line; 1 had no ``version``, ``named`` and ``unknown``
_WAY_OUT = "run the evaluation of this arm again with restart=true"


def to_prediction(study: Study, completion: Completion, label_set: LabelSet) -> Prediction:
    """A completion beside the truth of its study; labels its source does not judge are in ``named`` alone."""
    labelled = label_set.decode(study.mask)
    return Prediction(
        study_id=study.study_id,
        patient_id=study.patient_id,
        dataset=study.dataset,
        text=completion.text,
        predicted=tuple(label for label in completion.parsed.labels if label in labelled),
        truth=tuple(label for label in label_set.decode(study.target) if label in labelled),
        labelled=labelled,
        broken=completion.parsed.broken,
        n_tokens=completion.n_tokens,
        image=str(study.image),
        named=completion.parsed.labels,
        unknown=completion.parsed.unknown,
    )


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Writes one JSON object a line; raises ValueError when a study occurs twice (a padded distributed sampler)."""
    predictions = list(predictions)
    if twice := [study for study, n in Counter(p.study_id for p in predictions).items() if n > 1]:
        raise ValueError(f"study '{twice[0]}' is predicted twice; keep one prediction a study for {path}")
    write_text(path, "".join(json.dumps(to_row(p), ensure_ascii=True) + "\n" for p in predictions))


def to_row(prediction: Prediction) -> dict[str, object]:
    """A prediction as the object of its line."""
    return asdict(prediction) | {"version": _VERSION}


def read_predictions(path: Path) -> list[Prediction]:
    """All predictions of ``path``; raises ValueError naming file, line, fault and way out."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; run the evaluation of this arm first, with restart=true where that says it is DONE"
        )
    first_line: dict[str, int] = {}
    predictions = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                prediction = of_row(json.loads(line))
            except (ValueError, TypeError) as fault:
                raise ValueError(f"{path}:{number}: {fault}; {_WAY_OUT}") from None
            earlier = first_line.setdefault(prediction.study_id, number)
            if earlier != number:
                raise ValueError(
                    f"{path}:{number}: study '{prediction.study_id}' is already on line {earlier}; {_WAY_OUT}"
                )
            predictions.append(prediction)
    if not predictions:
        raise ValueError(f"{path} holds no predictions; {_WAY_OUT}")
    return predictions


def datasets(predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """Predictions by data set, sets and rows in file order."""
    split: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        split.setdefault(prediction.dataset, []).append(prediction)
    return split


def labelled_sets(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The predictions of the sets of which some study has a judged label: a hospital without labels has no figures."""
    known = {p.dataset for p in predictions if p.labelled}
    return [p for p in predictions if p.dataset in known]


def evaluated_labels(predictions: Iterable[Prediction], label_set: LabelSet) -> tuple[str, ...]:
    """The labels some row's source judges, in label-set order: the list a macro average runs over."""
    judged = {label for prediction in predictions for label in prediction.labelled}
    for label in judged:
        label_set.index(label)  # raises on a foreign name
    return tuple(label for label in label_set if label in judged)


def on_judged(predictions: Sequence[Prediction], labels: Collection[str]) -> list[Prediction]:
    """The predictions on studies of which at least one of ``labels`` is judged: no other answer is right or wrong.

    Raises ValueError where there are predictions and none of them is on such a study.
    """
    found = [p for p in predictions if not set(p.labelled).isdisjoint(labels)]
    if predictions and not found:
        raise ValueError(
            f"no label of the {len(predictions)} studies of '{predictions[0].dataset}' is judged, so no answer to them "
            "can be scored: check data.sets.<set>.policy and label_list, or leave the set out of data.test"
        )
    return found


def counts(predictions: Sequence[Prediction], labels: Sequence[str]) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Boolean (pred, truth, mask), each [N, L] in the order of ``labels``.

    A broken output predicts nothing, and what a row's source does not judge is dropped from prediction and truth.
    """
    column = {label: position for position, label in enumerate(labels)}
    pred, truth, mask = np.zeros((3, len(predictions), len(labels)), dtype=bool)  # [N, L]
    for row, prediction in enumerate(predictions):
        answered = () if prediction.broken is not None else prediction.predicted
        for names, array in ((answered, pred), (prediction.truth, truth), (prediction.labelled, mask)):
            array[row, [column[name] for name in names if name in column]] = True
    return pred & mask, truth & mask, mask


def vocabulary(predictions: Sequence[Prediction]) -> FloatArray:
    """Whether each answer has an item that is no label, and whether it has such items alone: 0 or 1, [N, 2].

    NaN where the file does not record it. A broken answer has no items.
    """
    rows = [
        (np.nan, np.nan) if p.named is None or p.unknown is None else (bool(p.unknown), bool(p.unknown and not p.named))
        for p in predictions
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, len(VOCABULARY))


def vocabulary_rates(said: FloatArray) -> dict[str, float]:
    """The means of ``vocabulary`` [N, 2] by name, for each data set."""
    return dict(zip(VOCABULARY, said.mean(axis=0).tolist(), strict=True))


def of_row(row: object) -> Prediction:
    """The prediction that ``to_row`` made the object of a line of; raises ValueError on any other."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    row = {name: value for name, value in row.items() if name not in _DROPPED}
    if (version := row.pop("version", 1)) not in range(1, _VERSION + 1):
        raise ValueError(f"version {version!r} is not one of 1 to {_VERSION}, which this chexreason reads: update it")
    known = {f.name for f in fields(Prediction)}
    missing, foreign = [name for name in _REQUIRED if name not in row], sorted(set(row) - known)
    if missing or foreign:
        raise ValueError(f"missing fields {missing}, unknown fields {foreign}")
    _check_kinds(row)
    row |= {name: tuple(row[name]) for name in _LISTS if row.get(name) is not None}
    outside = sorted(set(row["truth"]) - set(row["labelled"]))
    if outside:
        raise ValueError(f"truth {outside} of study '{row['study_id']}' is not among its labelled classes")
    if row.get("named") is not None and set(row["named"]) & set(row["labelled"]) != set(row["predicted"]):
        raise ValueError(f"'predicted' of study '{row['study_id']}' is not what was 'named' of its labelled classes")
    return Prediction(**row)


def _check_kinds(row: Mapping[str, Any]) -> None:
    """Refuse (ValueError) a list, a text or a count that is something else."""
    for name in _LISTS:
        if row.get(name) is None and name not in _REQUIRED:
            continue
        if not isinstance(row[name], list) or not all(isinstance(item, str) for item in row[name]):
            raise ValueError(f"'{name}' must be a list of label names, found {row[name]!r}")
    for name in _TEXTS:
        if not isinstance(row.get(name, ""), str) and (name, row[name]) != ("broken", None):
            raise ValueError(f"'{name}' must be text, found {row[name]!r}")
    if type(n := row.get("n_tokens", 0)) is not int or n < 0:
        raise ValueError(f"'n_tokens' must be a count, found {n!r}")
