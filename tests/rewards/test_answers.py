"""Answers from files: both kinds, and every fault of a file at once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.rewards.lab.answers import is_predictions, of_predictions, read_answers
from chexreason.types import Prediction

TEXT = "<think>x</think><solution>Edema, Cat</solution>"
FORMAT = AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION)
PREDICTION = Prediction("s1", "p1", "nih", TEXT, ("Edema",), ("Edema",), ("Edema", "Pneumonia"), n_tokens=7)


@pytest.fixture
def file(tmp_path):
    def make(*rows: object):
        path = tmp_path / "answers.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return path

    return make


def test_rows_of_text_and_labels_become_completions_of_studies(file):
    plain = {"text": TEXT, "labels": ["Edema", "Pneumonia"]}
    full = plain | {"tokens": 12, "labelled": ["Edema", "Pneumonia"], "study_id": "s7", "patient_id": "p7"}
    found = read_answers(file(plain, "", full), FORMAT, n_tokens=370)
    assert [c.n_tokens for c in found.completions] == [370, 12]
    assert found.completions[0].parsed.unknown == ("Cat",)
    assert [study.patient_id for study in found.studies] == ["line 1", "p7"]
    assert CHEXPERT14.decode(found.studies[0].target) == ("Edema", "Pneumonia")
    assert all(found.studies[0].mask)
    assert CHEXPERT14.decode(found.studies[1].mask) == ("Edema", "Pneumonia")
    assert list(found.by_dataset()) == ["answers"]


def test_all_faults_of_a_file_are_listed_once_with_their_lines(file):
    path = file(
        {"text": TEXT, "labels": ["Edema"]},
        "not json",
        {"text": TEXT},
        {"text": TEXT, "labels": ["Cat"]},
        {"text": TEXT, "labels": ["Cat", "Cat"], "token": 3},
        {"text": 7, "labels": "Edema", "tokens": True},
        {"text": TEXT, "labels": ["Edema"], "labelled": ["Pneumonia"]},
    )
    with pytest.raises(ValueError, match=r"answers\.jsonl cannot be scored; write one JSON object a line") as error:
        read_answers(path, FORMAT, 370)
    for words in (
        "not a JSON object: 1 lines, e.g. 2",
        "no field 'labels': 1 lines, e.g. 3",
        "'Cat' in 'labels' is not a label of 'chexpert14': 2 lines, e.g. 4, 5",
        "unknown field 'token' (known: labelled, labels, patient_id, study_id, text, tokens): 1 lines, e.g. 5",
        "'text' is not text: 1 lines, e.g. 6",
        "'tokens' is not a count: 1 lines, e.g. 6",
        "'labels' is not a list of labels: 1 lines, e.g. 6",
        "'Edema' is in 'labels' and not in 'labelled': 1 lines, e.g. 7",
    ):
        assert words in str(error.value)
    with pytest.raises(ValueError, match="holds no answers"):
        read_answers(file(), FORMAT, 370)


def test_predictions_are_told_from_rows(file, tmp_path):
    assert is_predictions(file({"text": TEXT, "predicted": []})) is True
    assert is_predictions(file({"text": TEXT, "labels": []})) is False
    assert is_predictions(file()) is False
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl does not exist"):
        is_predictions(tmp_path / "nowhere.jsonl")


def test_predictions_are_read_again_and_must_read_alike():
    unjudged = replace(PREDICTION, study_id="s2", text=TEXT.replace("Cat", "Fracture"), dataset="b")
    found = of_predictions([PREDICTION, unjudged], FORMAT)
    assert found.completions[0].parsed.unknown == ("Cat",)
    assert [c.n_tokens for c in found.completions] == [7, 7]
    assert list(found.by_dataset()) == ["nih", "b"]
    assert found.by_dataset()["b"].studies == (found.studies[1],)
    with pytest.raises(ValueError, match=r"2 of 2 answers, e\.g\. of s1, s2, .*grammar 'solution_only'.*set prompt="):
        of_predictions([PREDICTION, unjudged], AnswerFormat(CHEXPERT14, Grammar.SOLUTION_ONLY))
    with pytest.raises(ValueError, match="1 of 1 answers"):
        of_predictions([replace(PREDICTION, predicted=())], AnswerFormat(NIH9, Grammar.THINK_SOLUTION))
