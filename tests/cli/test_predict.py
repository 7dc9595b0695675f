"""Predictions of films that nobody labelled: rows, what cannot be read, cuts of one hospital, and starts again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from chexreason import runs
from chexreason.build.data import build_labels
from chexreason.cli.calibrate import score_origin
from chexreason.cli.predict import predict
from chexreason.statistics.operating_point import OperatingPoint, write_point
from chexreason.statistics.predictions import read_predictions
from tests.support.configs import composed

HOSTILE = "<script>alert(1)</script>.jpg"
FILES = ("a.jpg", "sub/a.jpg", HOSTILE.replace("/", ""))


def film(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64), 90 + shade, np.uint8)).save(path)


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """Three films, one of them hostile by name, and a broken one, predicted by the untrained arm."""
    folder = tmp_path_factory.mktemp("predict")
    for shade, name in enumerate(FILES):
        film(folder / "films" / name, shade)
    (folder / "films" / "broken.jpg").write_bytes(b"no film")
    predict(config(folder))
    return folder


@pytest.fixture
def folder(first, tmp_path) -> Path:
    """A copy of these, to change."""
    shutil.copytree(first, tmp_path / "p")
    return tmp_path / "p"


def config(folder: Path, *words: str):
    images = () if any(word.startswith("images=") for word in words) else (f"images={folder}/films",)
    return composed("predict", f"paths.out={folder}", "name=t", "model.max_new_tokens=12", *images, *words)


def written(folder: Path) -> dict[str, bytes]:
    out = folder / "t/predict/base"
    return {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()}


def test_a_film_is_a_row_and_what_cannot_be_read_is_listed_once(first):
    found = written(first)
    rows = [json.loads(line) for line in found["predictions.jsonl"].splitlines()]
    assert [(row["row"], row["film"]) for row in rows] == list(enumerate(sorted(FILES), start=1))
    answers = read_predictions(first / "t/predict/base/answers/predictions.jsonl")
    assert [tuple(row["answer"]) for row in rows] == [p.named for p in answers]
    text_of = {p.study_id: p.text for p in answers}
    assert [row["text"] for row in rows] == [text_of["films:" + row["film"].removesuffix(".jpg")] for row in rows]
    assert pd.read_csv(first / "t/predict/base/broken.csv")["path"].tolist() == ["broken.jpg"]
    assert len(pd.read_csv(first / "t/predict/base/predictions.csv")) == len(FILES)
    assert b"<script>" not in found["predictions.html"]
    assert str(first).encode() not in b"".join(found.values())
    assert (first / "t/predict/base").stat().st_mode & 0o077 == 0


def test_a_second_start_writes_the_same_bytes_and_changed_films_are_refused(folder):
    before = written(folder)
    predict(config(folder))
    assert written(folder) == before
    film(folder / "films" / "new.jpg", 9)
    with pytest.raises(runs.RunError, match=r"changed since .* restart=true"):
        predict(config(folder))
    assert written(folder) == before
    assert len(predict(config(folder, "restart=true"))) == len(FILES) + 1


def test_a_csv_gives_the_order_and_the_weeks(folder):
    rows = [("sub/a.jpg", "20260105"), ("a.jpg", "2026-01-13"), ("a.jpg", "2026-01-13")]
    (folder / "films" / "list.csv").write_text("file,day\n" + "\n".join(map(",".join, rows[:2])) + "\n")
    words = (f"images={folder}/films/list.csv", "path_column=file", "date_column=day", "arm=csv")
    assert predict(config(folder, *words))["film"].tolist() == ["sub/a.jpg", "a.jpg"]
    drift = pd.read_csv(folder / "t/predict/csv/drift.csv")
    assert drift["week"].unique().tolist() == ["2026-01-05", "2026-01-12"]
    assert set(drift["films"]) == {1}
    predict(config(folder, *words[:2], "arm=csv"))
    assert not (folder / "t/predict/csv/drift.csv").exists()
    (folder / "films" / "list.csv").write_text("file,day\na.jpg,yesterday\n")
    with pytest.raises(ValueError, match=r"'yesterday' in day is no date"):
        predict(config(folder, *words, "arm=none"))
    assert not (folder / "t/predict/none/answers").exists()  # said before any film is answered


def test_a_date_is_its_films_however_the_csv_writes_the_path(folder):
    paths = ("./sub/a.jpg", f"{folder}/films/a.jpg", HOSTILE.replace("/", "").removesuffix(".jpg"))
    (folder / "films" / "list.csv").write_text("path,day\n" + "".join(f"{path},2026-01-13\n" for path in paths))
    predict(config(folder, f"images={folder}/films/list.csv", "date_column=day", "arm=csv"))
    assert set(pd.read_csv(folder / "t/predict/csv/drift.csv")["films"]) == {len(FILES)}


def test_a_film_that_is_too_small_has_no_row_and_is_listed_at_each_start(folder):
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(folder / "films" / "tiny.png")
    for _ in range(2):
        assert len(predict(config(folder))) == len(FILES)
        broken = pd.read_csv(folder / "t/predict/base/broken.csv")
        assert broken["path"].tolist() == ["broken.jpg", "tiny.png"]
        assert broken["reason"].tolist()[1] == "a side has fewer than 32 pixels"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("images=null",), "images= is missing"),
        (("images=FOLDER/none",), "images=.*none: no folder and no csv"),
        (("date_column=day",), "date_column: .* is a folder"),
    ],
)
def test_what_is_no_folder_of_films_is_refused(folder, words, fault):
    with pytest.raises((ValueError, FileNotFoundError), match=fault):
        predict(config(folder, *(word.replace("FOLDER", str(folder)) for word in words), "arm=other"))


def point(folder: Path, **changed: object) -> Path:
    """An operating point of the untrained arm that names Edema in every film and nothing else."""
    kept = OmegaConf.to_container(config(folder), resolve=True)
    answers = read_predictions(folder / "t/predict/base/answers/predictions.jsonl")
    labels = build_labels(config(folder)).labels
    origin = replace(score_origin(kept, answers, labels, "log_odds"), **{"dataset": "home", **changed})
    n = len(labels)
    found = OperatingPoint(
        origin=origin, target="f1", at=None, calibration="platt",
        cuts=tuple(-3e6 if label == "Edema" else 1e6 for label in labels), slopes=(1.0,) * n, biases=(0.0,) * n,
        positives=(20,) * n, negatives=(20,) * n, rare=(), min_positives=10, scores_sha256="0", ids=("home:1",),
    )  # fmt: skip
    write_point(folder / "operating_point.json", found)
    return folder / "operating_point.json"


def test_a_cut_stands_beside_the_answer_and_is_a_probability_at_its_own_hospital_alone(folder):
    place = f"operating_point={point(folder)}"
    away = predict(config(folder, place))
    assert away["cut"].tolist() == [("Edema",)] * len(FILES)
    assert away["possible"].tolist() == [("Edema", "Lung Opacity")] * len(FILES)
    assert all("Edema" in differs for differs in away["differs"])
    assert "score Edema" in away
    assert "probability Edema" not in away
    page = (folder / "t/predict/base/predictions.html").read_text()
    assert "Cuts were fitted at home. What they attain on these films is not known" in page
    home = predict(config(folder, place, "hospital=home"))
    assert home["probability Edema"].between(0, 1).all()
    assert home["cut"].tolist() == away["cut"].tolist()


def test_an_operating_point_of_another_adapter_is_refused(folder):
    before = written(folder)
    with pytest.raises(ValueError, match=r"other adapters"):
        predict(config(folder, f"operating_point={point(folder, adapters=('another',))}"))
    assert written(folder) == before
    with pytest.raises(ValueError, match=r"other adapters"):
        predict(config(folder, f"operating_point={folder}/operating_point.json", "arm=other"))
    assert not (folder / "t/predict/other/answers").exists()  # said before any film is answered
