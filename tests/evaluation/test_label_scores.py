"""Label scores on disk: rows find their study again, and what is missing is named."""

from __future__ import annotations

import pytest
import torch

from chexreason.statistics import score_files as label_scores
from chexreason.types import Prediction

LABELS = ("Edema", "Fracture")


def predictions(*studies: str) -> list[Prediction]:
    return [Prediction(s, s, "a", "", (), (), LABELS) for s in studies]


def test_scores_come_back_in_the_order_asked_for(tmp_path):
    frame = label_scores.rows(predictions("s1", "s2"), "log_odds", LABELS, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    label_scores.write(tmp_path / "scores.parquet", frame)
    again = label_scores.read(tmp_path / "scores.parquet")
    found = label_scores.aligned(again, predictions("s2", "s1"), ("Fracture", "Edema"), "log_odds")
    assert found.tolist() == [[4.0, 3.0], [2.0, 1.0]]


def test_scores_of_other_answers_are_refused(tmp_path):
    answers = tmp_path / "predictions.jsonl"
    answers.write_text("{}\n")
    recorded = label_scores.answers_sha256(answers)
    label_scores.check_answers(recorded, answers, tmp_path / "scores")
    answers.write_text("{ }\n")
    with pytest.raises(ValueError, match=rf"scores was made for other answers than .*\(sha256 {recorded[:8]}, now "):
        label_scores.check_answers(recorded, answers, tmp_path / "scores")


def test_what_has_no_score_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run chexreason\.cli\.scores"):
        label_scores.read(tmp_path / "none.parquet")
    frame = label_scores.rows(predictions("s1"), "frequency", LABELS, torch.zeros(1, 2))
    with pytest.raises(KeyError, match=r"no log_odds scores for 1 studies \(e\.g\. \['s1'\]\)"):
        label_scores.aligned(frame, predictions("s1"), LABELS, "log_odds")
    with pytest.raises(KeyError, match="Edema2"):
        label_scores.aligned(frame, predictions("s1"), ("Edema2",), "frequency")
    with pytest.raises(ValueError, match="scores"):
        label_scores.rows(predictions("s1"), "frequency", LABELS, torch.zeros(2, 2))
