"""From raw marks to F1 by hand: what nobody is sure of, or nobody judged, is neither a false positive nor a miss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import IGNORE, ONES, POSITIVES_ONLY, ZEROS, LabelPolicy, resolve
from chexreason.statistics.bootstrap import replicates
from chexreason.statistics.metrics import confusion, label_f1
from chexreason.statistics.predictions import (
    counts,
    evaluated_labels,
    read_predictions,
    to_prediction,
    write_predictions,
)
from chexreason.types import Completion, Parsed, Prediction, Study

LABELS = LabelSet("three", ("Edema", "Pneumonia", "Fracture"))
NAN = float("nan")
#                 Edema  Pneumonia  Fracture (always uncertain)
MARKS = np.array([[1.0, -1.0, -1.0], [-1.0, 0.0, -1.0], [NAN, 1.0, -1.0], [0.0, NAN, -1.0]])
U_ONES, U_IGNORE = LabelPolicy("a", "positive", "negative"), LabelPolicy("b", "masked", "negative")


def _scored(policy: LabelPolicy, answer: tuple[str, ...], folder: Path) -> list[Prediction]:
    """The predictions of one constant answer to the four studies, through the file."""
    target, mask = resolve(MARKS, policy, np.ones(3, dtype=bool))
    rows = []
    for i in range(4):
        study = Study(f"s{i}", f"p{i}", "set", Path("x"), tuple(target[i].tolist()), tuple(mask[i].tolist()))
        rows.append(to_prediction(study, Completion(f"s{i}", "", Parsed(answer), 1), LABELS))
    write_predictions(folder / "predictions.jsonl", rows)
    return read_predictions(folder / "predictions.jsonl")


def _f1(rows: list[Prediction]) -> dict[str, float]:
    pred, truth, mask = counts(rows, LABELS.labels)
    return label_f1(confusion(pred, truth, mask), mask, np.zeros(len(rows), dtype=bool), LABELS.labels)


@pytest.mark.parametrize(
    ("policy", "tp", "fp"),  # of Edema, answered for every study; Pneumonia's are the same by construction
    [(IGNORE, 1, 1), (ZEROS, 1, 2), (ONES, 2, 1), (POSITIVES_ONLY, 1, 3), (U_ONES, 2, 2), (U_IGNORE, 1, 2)],
)
def test_answering_everything_costs_what_is_known_to_be_absent(policy, tp, fp, tmp_path) -> None:
    rows = _scored(policy, ("Edema", "Pneumonia"), tmp_path)
    scores = _f1(rows)
    assert scores["f1/Edema"] == scores["f1/Pneumonia"] == pytest.approx(2 * tp / (2 * tp + fp))
    labels = evaluated_labels(rows, LABELS)
    assert replicates(rows, labels, 0).value["f1/Edema"] == pytest.approx(scores["f1/Edema"])


@pytest.mark.parametrize(("policy", "missed"), [(IGNORE, 1), (ZEROS, 1), (ONES, 2), (POSITIVES_ONLY, 1)])
def test_answering_nothing_misses_what_is_known_to_be_present(policy, missed, tmp_path) -> None:
    hits = confusion(*counts(_scored(policy, (), tmp_path), LABELS.labels)).sum(axis=0)  # [3, L]
    assert hits[:, :2].tolist() == [[0, 0], [0, 0], [missed, missed]]


def test_a_label_that_is_always_uncertain_enters_no_average_when_ignored(tmp_path) -> None:
    """The multilabel macro of torchmetrics counts such a column as 0; so would a mask that forgot the average."""
    ignored = _f1(_scored(IGNORE, LABELS.labels, tmp_path))
    assert "f1/Fracture" not in ignored
    assert ignored["macro_f1"] == ignored["macro_f1_supported"] == ignored["micro_f1"] == pytest.approx(2 / 3)
    counted = _f1(_scored(ZEROS, LABELS.labels, tmp_path))  # judged absent: a zero of the plain mean, as in the paper
    assert counted["macro_f1"] == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert counted["macro_f1_supported"] == pytest.approx(0.5)
