"""Label scores on disk: rows find their study again, and what is missing is named."""

from __future__ import annotations

import numpy as np
import pytest

from chexreason.statistics.score_files import (
    aligned,
    answers_sha256,
    check_made_for,
    read_scores,
    score_rows,
    write_scores,
)
from chexreason.types import Prediction

LABELS = ("Edema", "Fracture")


def predictions(*studies: str) -> list[Prediction]:
    return [Prediction(s, s, "a", "", (), (), LABELS) for s in studies]


def test_scores_come_back_in_the_order_asked_for(tmp_path):
    frame = score_rows(predictions("s1", "s2"), "log_odds", LABELS, np.array([[1.0, 2.0], [3.0, 4.0]]))
    write_scores(tmp_path / "scores.parquet", frame)
    again = read_scores(tmp_path / "scores.parquet")
    found = aligned(again, predictions("s2", "s1"), ("Fracture", "Edema"), "log_odds")
    assert found.tolist() == [[4.0, 3.0], [2.0, 1.0]]


def test_scores_of_other_answers_are_refused(tmp_path):
    answers = tmp_path / "predictions.jsonl"
    answers.write_text("{}\n")
    recorded = answers_sha256(answers)
    check_made_for(recorded, answers, tmp_path / "scores")
    answers.write_text("{ }\n")
    with pytest.raises(ValueError, match=rf"scores was made for other answers than .*\(sha256 {recorded[:8]}, now "):
        check_made_for(recorded, answers, tmp_path / "scores")


def test_what_has_no_score_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run chexreason\.cli\.scores"):
        read_scores(tmp_path / "none.parquet")
    frame = score_rows(predictions("s1"), "frequency", LABELS, np.zeros((1, 2)))
    with pytest.raises(KeyError, match=r"no log_odds scores for 1 studies \(e\.g\. \['s1'\]\)"):
        aligned(frame, predictions("s1"), LABELS, "log_odds")
    with pytest.raises(KeyError, match="Edema2"):
        aligned(frame, predictions("s1"), ("Edema2",), "frequency")
    with pytest.raises(ValueError, match="scores"):
        score_rows(predictions("s1"), "frequency", LABELS, np.zeros((2, 2)))
