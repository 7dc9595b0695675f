"""Label scores on disk: rows find their study again, and what is missing is named."""

from __future__ import annotations

import numpy as np
import pytest

from chexreason.statistics.score_files import (
    aligned,
    answers_sha256,
    check_made_for,
    one_reasoning,
    read_scores,
    score_rows,
    sign_agreement,
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


def test_scores_say_after_which_reasoning_they_are_and_two_kinds_are_not_mixed(tmp_path):
    frames = [score_rows(predictions("s1"), "log_odds", LABELS, np.array([[1.0, 2.0]])) for _ in range(2)]
    for frame, said in zip(frames, ({}, {"reasoning": "none"}), strict=True):
        frame.attrs = said
    for n, frame in enumerate(frames):
        write_scores(tmp_path / f"{n}.parquet", frame)
    own, none = (read_scores(tmp_path / f"{n}.parquet") for n in range(2))
    assert (one_reasoning([own, own]), one_reasoning([none])) == ("own", "none")  # an earlier version wrote no kind
    with pytest.raises(ValueError, match=r"different reasonings cannot stand together: none, own; run .* restart=true"):
        one_reasoning([own, none])


def test_agreement_counts_answers_and_each_label():
    odds, named = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 0.0]]), [[1, 0], [0, 1], [0, 1]]
    expected = {"answers": 1 / 3, "labels": 4 / 6, "Edema": 2 / 3, "Fracture": 2 / 3}
    assert sign_agreement(odds, named, LABELS) == pytest.approx(expected)
    assert sign_agreement(odds[:0], named[:0], LABELS) == {}
