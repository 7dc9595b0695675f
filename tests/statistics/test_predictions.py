from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.statistics.predictions import counts, datasets, evaluated_labels, read_predictions, write_predictions
from chexreason.types import Prediction

DECLARED = {"policy": "zeros: uncertain=negative, blank=masked", "data_sha256": "0123456789abcdef"}
SAID = {"named": ("Edema", "Fracture"), "unknown": ("Fluid",)}  # beyond what is judged
ONE = Prediction("s", "p", "set", "text", ("Edema",), ("Edema",), ("Edema", "Pneumonia"), **DECLARED, **SAID)


def test_what_is_written_is_read_back(make_arm, tmp_path: Path) -> None:
    predictions = [*make_arm(0.6, fail_every=5, text="line\nbreak </think> \u2028 ü"), ONE]
    write_predictions(tmp_path / "arm" / "predictions.jsonl", predictions)
    assert read_predictions(tmp_path / "arm" / "predictions.jsonl") == predictions
    assert [p.name for p in (tmp_path / "arm").iterdir()] == ["predictions.jsonl"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [ONE])
    with pytest.raises(ValueError, match="'s' is predicted twice"):
        write_predictions(path, [ONE, ONE])
    assert read_predictions(path) == [ONE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": "Edema"}, r"2: 'predicted' must be a list of label names, found 'Edema'; run the eval"),
        ({"truth": ["Fracture"]}, r"2: truth \['Fracture'\] of study 's2' is not among its labelled"),
        ({"score": 1}, r"2: missing fields \[\], unknown fields \['score'\]"),
        ({"study_id": "s"}, r"2: study 's' is already on line 1"),
        ({"patient_id": 7}, r"2: 'patient_id' must be text, found 7"),
        ({"policy": None}, r"2: 'policy' must be text, found None"),
        ({"named": "Edema"}, r"2: 'named' must be a list of label names, found 'Edema'"),
        ({"broken": 0}, r"2: 'broken' must be text, found 0"),
        ({"n_tokens": "12"}, r"2: 'n_tokens' must be a count, found '12'"),
        ({"named": []}, r"2: 'predicted' of study 's2' is not what was 'named' of its labelled classes"),
        ({"version": 3}, r"2: version 3 is not one of 1 to 2, which this chexreason reads: update it"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [ONE])
    row = json.loads(path.read_text()) | {"study_id": "s2"} | change
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"{path}:{message}"):
        read_predictions(path)


def test_every_line_says_what_it_was_scored_with_and_older_lines_that_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [ONE])
    row = json.loads(path.read_text())
    assert DECLARED.items() <= row.items()
    assert "extra" not in row
    assert row["version"] == 2
    later = {*DECLARED, *SAID, "version"}
    older = {name: value for name, value in row.items() if name not in later} | {"extra": {"prompt": "a"}}
    path.write_text(json.dumps(older) + "\n")
    assert read_predictions(path) == [replace(ONE, policy="", data_sha256="", named=None, unknown=None)]


def test_a_cut_off_or_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(FileNotFoundError, match="run the evaluation of this arm first"):
        read_predictions(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no predictions"):
        read_predictions(path)
    write_predictions(path, [ONE])
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"predictions.jsonl:1: .*; run the evaluation .* with restart=true"):
        read_predictions(path)


def test_counts_drop_what_is_not_judged_and_what_is_broken() -> None:
    rows = [
        replace(ONE, predicted=("Edema", "Fracture")),
        replace(ONE, study_id="s2", predicted=("Edema",), broken="no_solution"),
    ]
    pred, truth, mask = counts(rows, ("Edema", "Fracture", "Pneumonia"))
    assert pred.tolist() == [[True, False, False], [False, False, False]]
    assert truth.tolist() == [[True, False, False]] * 2
    assert mask.tolist() == [[True, False, True]] * 2


def test_evaluated_labels_are_those_some_row_judges_in_label_order(make_arm) -> None:
    by_set = datasets(make_arm(0.5))
    assert list(by_set) == ["phantom_a", "phantom_b"]
    assert evaluated_labels(by_set["phantom_b"], CHEXPERT14) == NIH9.labels
    with pytest.raises(KeyError, match="unknown label 'Hernia'"):
        evaluated_labels([replace(ONE, labelled=("Hernia",))], CHEXPERT14)
