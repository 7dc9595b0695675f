"""The file of an operating point, and everything that it refuses to be applied to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chexreason.files import write_sealed
from chexreason.statistics.operating_point import (
    OperatingPoint,
    ScoreOrigin,
    apply,
    hashed_ids,
    probabilities,
    read_point,
    write_point,
)

LABELS = ("Edema", "Fracture")
ORIGIN = ScoreOrigin(
    "tiny", ("ab12",), "free_reasoning 12", "own", "log_odds", LABELS, "home", "positives_only", "feed"
)
POINT = OperatingPoint(
    ORIGIN, "sensitivity", 0.9, "platt", (0.5, -1.25), (1.0, 0.0), (0.0, -2.0), (12, 3), (88, 97), ("Fracture",), 10,
    "c0de", hashed_ids(["home:s1", "home:s2"], "salt"), "salt",
)  # fmt: skip
SCORES = np.array([[0.5, -2.0], [0.4, 3.0]])
IDS = ["home:s3", "home:s4"]


def test_it_comes_back_and_names_labels_from_its_cut_on(tmp_path: Path) -> None:
    write_point(tmp_path / "operating_point.json", POINT)
    again = read_point(tmp_path / "operating_point.json")
    assert again == POINT
    assert apply(again, SCORES, IDS, ORIGIN).tolist() == [[True, False], [False, True]]
    np.testing.assert_allclose(probabilities(again, SCORES)[0], [1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(2))])
    assert "home:s1" not in (tmp_path / "operating_point.json").read_text()
    plain = replace(POINT, ids=("home:s1", "home:s2"), salt="")
    write_point(tmp_path / "public.json", plain)
    assert "home:s1" in (tmp_path / "public.json").read_text()


def _edited(row: dict, edit: str) -> object:
    if edit == "cut":
        row["cuts"][0] = -3.0
    elif edit == "NaN":
        row["cuts"][1] = float("nan")
    elif edit == "text":
        row["cuts"] = "0.5"
    elif edit == "no seal":
        del row["sha256"]
    elif edit == "ids":
        row["ids"] = row["ids"][:1]
    return [] if edit == "list" else row


@pytest.mark.parametrize("edit", ["cut", "NaN", "text", "no seal", "ids", "list", "half"])
def test_edited_by_hand_it_is_refused_with_the_way_out(tmp_path: Path, edit: str) -> None:
    path = tmp_path / "operating_point.json"
    write_point(path, POINT)
    text = path.read_text()
    path.write_text(text[: len(text) // 2] if edit == "half" else json.dumps(_edited(json.loads(text), edit)))
    with pytest.raises(ValueError, match=rf"{path} is damaged: .*run chexreason\.cli\.calibrate again"):
        read_point(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cuts": [0.5]}, "of 2 labels has 1 cuts"),
        ({"slopes": [True, 1.0]}, "slopes of an operating point: True of 'Edema' is no number"),
        ({"cuts": [0.5, "1"]}, "'1' of 'Fracture' is no number"),
        ({"target": "accuracy"}, "target=accuracy: choose one of"),
        ({"ids": []}, "names no studies"),
        ({"calibration": "isotonic"}, "do not fit its labels"),
        ({"version": 2}, "has version 2, this chexreason reads 1"),
        ({"more": 1}, "is no operating point"),
        ({"origin": {}}, "is no operating point"),
    ],
)
def test_a_sealed_file_that_does_not_fit_is_refused_too(tmp_path: Path, change: dict, words: str) -> None:
    path = tmp_path / "operating_point.json"
    write_point(path, POINT)
    row = json.loads(path.read_text())
    del row["sha256"]
    write_sealed(path, row | change)
    with pytest.raises(ValueError, match=words) as refused:
        read_point(path)
    assert str(path) in str(refused.value)


def test_a_cut_that_is_not_finite_makes_no_operating_point() -> None:
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"cuts of an operating point: {wrong} of 'Fracture' is no number"):
            replace(POINT, cuts=(0.5, wrong))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapters": ("ff00",)}, "other adapters: .*ab12.*ff00"),
        ({"adapters": ()}, "other adapters"),
        ({"model": "other"}, "another model"),
        ({"prompt": "only_label 12"}, "another prompt"),
        ({"reasoning": "none"}, "another reasoning"),
        ({"kind": "frequency"}, "another kind"),
        ({"labels": LABELS[::-1]}, "other labels, or another order of them"),
        ({"convention": "ignore"}, "another convention: 'positives_only', these scores of 'home' have 'ignore'"),
        ({"data_sha256": "beef"}, "other data of the same name"),
        ({"dataset": "away", "convention": "ignore"}, "another convention"),
    ],
)
def test_scores_of_another_origin_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        apply(POINT, SCORES, IDS, replace(ORIGIN, **change))
    assert "calibrate" in str(refused.value)


def test_another_hospital_is_none_of_these_and_its_convention_goes_only_where_it_is_said() -> None:
    away = replace(ORIGIN, dataset="away", data_sha256="beef")
    assert apply(POINT, SCORES, IDS, away).any()
    assert apply(POINT, SCORES, IDS, replace(away, convention="ignore"), any_convention=True).any()


def test_scores_that_cannot_be_cut_and_studies_that_set_the_cut_are_refused() -> None:
    for wrong in (np.nan, np.inf):
        scores = SCORES.copy()
        scores[1, 1] = wrong
        with pytest.raises(
            ValueError, match=f"1 scores are not finite: the first is {wrong} of 'Fracture' in study 'home:s4'"
        ):
            apply(POINT, scores, IDS, ORIGIN)
    with pytest.raises(ValueError, match=r"shape \[1, 2\]; \[2, 2\] expected"):
        apply(POINT, SCORES[:1], IDS, ORIGIN)
    for point in (POINT, replace(POINT, ids=("home:s1", "home:s2"), salt="")):
        with pytest.raises(ValueError, match=r"fitted on 1 of these 2 studies, e\.g\. 'home:s2': .*cross_fitted"):
            apply(point, SCORES, ["home:s3", "home:s2"], ORIGIN)
