"""Answers from a file, as completions of studies that a reward can score."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexreason.labels.schema import LabelSet
from chexreason.parsing import AnswerFormat
from chexreason.types import Completion, Parsed, Prediction, Study

_KEYS = {"text", "labels", "tokens", "labelled", "study_id", "patient_id"}
_REQUIRED = {"text", "labels"}
_SHOWN = 3  # examples of each kind of fault


@dataclass(frozen=True)
class Answers:
    """N completions and the study each one answers."""

    completions: tuple[Completion, ...]
    studies: tuple[Study, ...]

    def by_dataset(self) -> dict[str, Answers]:
        """The answers of each data set, in order of first appearance."""
        rows: dict[str, list[int]] = {}
        for row, study in enumerate(self.studies):
            rows.setdefault(study.dataset, []).append(row)
        return {
            name: Answers(tuple(self.completions[i] for i in chosen), tuple(self.studies[i] for i in chosen))
            for name, chosen in rows.items()
        }


def of_predictions(found: Sequence[Prediction], answer_format: AnswerFormat) -> Answers:
    """The answers of an evaluation, read again for what the file does not hold: repeated items and stray text.

    Raises ValueError where an answer reads differently now: it was then read with another grammar or label set.
    """
    completions = tuple(_completion(p.study_id, p.text, p.n_tokens, answer_format) for p in found)
    pairs = zip(found, completions, strict=True)
    changed = [p.study_id for p, c in pairs if _reads_differently(p, c.parsed)]
    if changed:
        raise ValueError(
            f"{len(changed)} of {len(found)} answers, e.g. of {', '.join(changed[:_SHOWN])}, read differently than "
            f"when they were predicted (grammar '{answer_format.grammar}', labels '{answer_format.label_set.name}'): "
            "set prompt= and labels= as then, or evaluate again (restart=true) what an earlier version read"
        )
    studies = (
        study_of(p.study_id, p.patient_id, p.dataset, p.truth, p.labelled, answer_format.label_set) for p in found
    )
    return Answers(completions, tuple(studies))


def read_answers(path: Path, answer_format: AnswerFormat, n_tokens: int) -> Answers:
    """The rows of a JSON-lines file: ``text``, ``labels`` (the truth) and, where known, ``tokens``, ``labelled`` (the
    labels that were judged), ``study_id`` and ``patient_id``.

    A row without ``tokens`` counts as ``n_tokens`` long, one without ``labelled`` as judged on every label. Raises
    ValueError listing all kinds of faults, each with its count and first lines.
    """
    label_set = answer_format.label_set
    completions, studies = [], []
    faults: dict[str, list[int]] = {}
    for number, row in _lines(path):
        kinds = dict.fromkeys(_faults(row, label_set))
        for kind in kinds:
            faults.setdefault(kind, []).append(number)
        if kinds:
            continue
        study_id = str(row.get("study_id", f"line {number}"))
        owner = str(row.get("patient_id", study_id))
        judged = row.get("labelled", label_set.labels)
        completions.append(_completion(study_id, row["text"], row.get("tokens", n_tokens), answer_format))
        studies.append(study_of(study_id, owner, path.stem, row["labels"], judged, label_set))
    if faults:
        listed = "\n".join(
            f"  {kind}: {len(lines)} lines, e.g. {', '.join(map(str, lines[:_SHOWN]))}"
            for kind, lines in faults.items()
        )
        raise ValueError(f"{path} cannot be scored; write one JSON object a line with text and labels:\n{listed}")
    if not studies:
        raise ValueError(f"{path} holds no answers: write one JSON object a line with text and labels")
    return Answers(tuple(completions), tuple(studies))


def is_predictions(path: Path) -> bool:
    """True for a file that an evaluation wrote; raises FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a predictions.jsonl or rows of text and labels")
    _, first = next(_lines(path), (0, None))
    return isinstance(first, dict) and "predicted" in first


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of each line that is not blank; None for one that is not JSON."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    yield number, None


def _faults(row: Any, label_set: LabelSet) -> Iterator[str]:
    """Every kind of fault of one row."""
    if not isinstance(row, Mapping):
        yield "not a JSON object"
        return
    for name in sorted(_REQUIRED - set(row)):
        yield f"no field '{name}'"
    for name in sorted(set(row) - _KEYS):
        yield f"unknown field '{name}' (known: {', '.join(sorted(_KEYS))})"
    if not isinstance(row.get("text", ""), str):
        yield "'text' is not text"
    if type(row.get("tokens", 0)) is not int or row.get("tokens", 0) < 0:
        yield "'tokens' is not a count"
    for name in ("labels", "labelled"):
        yield from _label_faults(name, row.get(name, []), label_set)
    if isinstance(row.get("labels"), list) and isinstance(row.get("labelled"), list):
        for label in row["labels"]:
            if label not in row["labelled"]:
                yield f"'{label}' is in 'labels' and not in 'labelled'"


def _label_faults(name: str, labels: Any, label_set: LabelSet) -> Iterator[str]:
    if not isinstance(labels, list):
        yield f"'{name}' is not a list of labels"
        return
    for label in labels:
        if label not in label_set.labels:
            yield f"'{label}' in '{name}' is not a label of '{label_set.name}'"


def _reads_differently(then: Prediction, now: Parsed) -> bool:
    judged = tuple(label for label in now.labels if label in then.labelled)
    said = [pair for pair in ((then.named, now.labels), (then.unknown, now.unknown)) if pair[0] is not None]
    return (then.predicted, then.broken) != (judged, now.broken) or any(before != after for before, after in said)


def _completion(study_id: str, text: str, n_tokens: int, answer_format: AnswerFormat) -> Completion:
    return Completion(study_id, text, answer_format.parse(text), n_tokens)


def study_of(
    study_id: str, patient_id: str, dataset: str, truth: Sequence[str], judged: Iterable[str], label_set: LabelSet
) -> Study:
    """A study without an image: true are the labels of ``truth`` that are among ``judged``."""
    known = set(judged)
    target = label_set.encode(label for label in truth if label in known)
    return Study(study_id, patient_id, dataset, Path(), target, tuple(label in known for label in label_set))
