from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from chexreason.reports.pictures import withheld
from chexreason.reports.report import build_report
from chexreason.statistics.predictions import write_predictions as write
from chexreason.types import Prediction

ONE = Prediction("nih:s7", "nih14:7", "nih", "t", ("Edema",), ("Edema",), ("Edema",), None)
HELD = replace(ONE, study_id="mimic:s8", patient_id="mimic:8", dataset="mimic")


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, Path]:
    """Two studies, one of them of a set that is not public, each with its image."""
    rows = []
    for i, row in enumerate((ONE, HELD)):
        Image.new("L", (40, 30), 60 + 100 * i).save(tmp_path / f"{i}.png")
        rows.append(replace(row, image=str(tmp_path / f"{i}.png")))
    write(tmp_path / "base.jsonl", rows)
    return {"base": tmp_path / "base.jsonl"}


def built(arms: dict[str, Path], out: Path, **options: object) -> str:
    build_report(arms, out, title="t", n_resamples=10, public=["nih"], **options)
    return (out / "report.html").read_text()


@pytest.mark.slow
def test_images_and_identifiers_that_are_not_public_are_shown_only_under_a_named_agreement(arms, tmp_path) -> None:
    page = built(arms, tmp_path / "out")
    assert page.count("<img") == 1
    assert "nih:s7" in page
    assert "mimic:s8" not in page
    assert "set not declared public: image left out" in page
    page = built(arms, tmp_path / "out", allow_export="DUA 1.5.0, our own server")
    assert page.count("<img") == 2
    assert "mimic:s8" in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


@pytest.mark.parametrize("agreement", ["", "yes", "null", True])
def test_an_agreement_that_names_none_is_refused_and_nothing_is_written(arms, tmp_path, agreement) -> None:
    with pytest.raises(ValueError, match=r"studies of mimic are not declared public .* leave allow_export null"):
        built(arms, tmp_path / "out", allow_export=agreement)
    assert not (tmp_path / "out").exists()


def test_a_set_prepared_anew_since_the_predictions_is_another_one() -> None:
    row, now = replace(ONE, data_sha256="then"), {"nih": {"data_sha256": "now"}}
    assert withheld([row], ["nih"], None, now) == {"nih"}
    assert withheld([row], ["nih"], None, {"nih": {"data_sha256": "then"}}) == frozenset()
    assert withheld([ONE], ["nih"], None, now) == frozenset()  # none was recorded then
    assert withheld([ONE], ["nih"], "yes", now) == frozenset()  # nothing to agree on


@pytest.mark.slow
def test_a_folder_holds_the_pictures_beside_the_page(arms, tmp_path) -> None:
    out = tmp_path / "out"
    page = built(arms, out, images="folder", allow_export="DUA 1.5.0, our own server")
    linked = re.findall(r'<img src="([^"]+)"', page)
    assert len(linked) == 2
    assert {f"images/{path.name}" for path in (out / "images").iterdir()} == set(linked)
    assert "data:" not in page
    (out / "images" / "mine.jpg").write_bytes(b"not ours")
    built(arms, out, images="folder")  # without the agreement its picture goes too
    assert len(list((out / "images").iterdir())) == 2
    built(arms, out)
    assert [path.name for path in (out / "images").iterdir()] == ["mine.jpg"]


@pytest.mark.slow
def test_no_images_leave_no_picture_anywhere(arms, tmp_path) -> None:
    assert "<img" not in built(arms, tmp_path / "out", images="none")
    assert not (tmp_path / "out" / "images").exists()
    with pytest.raises(ValueError, match="unknown images 'flat'; known: embedded, folder, none"):
        built(arms, tmp_path / "out", images="flat")
