from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from chexreason.reports.cases import build_cases, choose_cases
from chexreason.types import Prediction

ONE = Prediction("s", "p", "set", "text", ("Edema", "Fracture"), ("Edema", "Pneumonia"), ("Edema", "Pneumonia"))


def test_cases_cover_both_hospitals_and_every_outcome(make_arm) -> None:
    right = [replace(p, predicted=p.truth) if i % 2 else p for i, p in enumerate(make_arm(0.5, fail_every=4))]
    right = [replace(p, predicted=()) if p.broken else p for p in right]
    arms = {"sft": make_arm(0.6), "grpo": right}
    chosen = choose_cases(arms, 12)
    assert len({study for study, _ in chosen}) == 12
    strata = Counter((study.split(":")[0], kind) for study, kind in chosen)
    assert set(strata.values()) == {2}
    assert len(strata) == 6
    assert choose_cases(arms, 12) == chosen
    assert choose_cases(arms, 12, seed=1) != chosen


def test_no_more_cases_than_studies_and_only_studies_all_arms_answered(make_arm) -> None:
    arm = make_arm(0.5, n=3)
    assert len(choose_cases({"a": arm, "b": arm[1:]}, 24)) == 5


@pytest.mark.parametrize(
    ("broken", "kind", "marks"),
    [
        (None, "wrong", (("Edema", "hit"), ("Pneumonia", "missed"))),  # Fracture, which nobody judges, is left out
        ("no_solution", "failed", (("Edema", "missed"), ("Pneumonia", "missed"))),  # it predicts nothing
    ],
)
def test_marks_are_right_wrong_and_missed(broken: str | None, kind: str, marks: tuple) -> None:
    case = build_cases({"base": [replace(ONE, broken=broken)]}, 1)[0]
    assert (case.kind, case.answers[0].marks) == (kind, marks)


def test_images_are_scaled_and_embedded_and_missing_ones_told(tmp_path: Path) -> None:
    Image.new("L", (800, 400), 128).save(tmp_path / "film.png")
    shown = build_cases({"base": [replace(ONE, image=str(tmp_path / "film.png"))]}, 1)[0]
    assert Image.open(io.BytesIO(shown.image)).size == (320, 160)
    gone = build_cases({"base": [replace(ONE, image=str(tmp_path / "gone.png"))]}, 1)[0]
    assert gone.image == b""
    assert "not found" in gone.image_note


def test_a_runaway_text_is_cut_with_its_length() -> None:
    text = build_cases({"base": [replace(ONE, text="x" * 9_000)]}, 1)[0].answers[0].text
    assert text.endswith("(5000 more characters in predictions.jsonl)")


def test_a_text_falls_into_tags_reasoning_and_answer() -> None:
    text = "<think>a<b</think>\n<solution>Edema</solution> tail"
    parts = build_cases({"base": [replace(ONE, text=text)]}, 1)[0].answers[0].parts()
    assert "".join(piece for _, piece in parts) == text
    assert [piece for what, piece in parts if what == "answer"] == ["Edema"]
    assert [piece for what, piece in parts if not what] == ["a<b", "\n", " tail"]


def test_of_a_withheld_set_neither_image_nor_identifier_is_in_a_case(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 128).save(tmp_path / "film.png")
    rows = [replace(ONE, study_id=f"mimic:{i}", image=str(tmp_path / "film.png")) for i in (57, 58)]
    cases = build_cases({"base": rows, "sft": rows[::-1]}, 2, withheld={"set"})
    assert sorted(case.name for case in cases) == ["set-1", "set-2"]
    assert {(case.image, case.image_note) for case in cases} == {(b"", "set not declared public: image left out")}
