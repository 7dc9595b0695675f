"""Films without labels: a folder of images or DICOM files, or a csv without label columns; whose films they are."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chexreason.audit.audit_page import write_audit
from chexreason.data.prepare import prepare_set
from chexreason.data.sources.film_folder import FilmFolder
from chexreason.data.sources.table import TableSource
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.uncertainty import label_policy
from chexreason.progress import silent
from tests.support.hospitals import film

LABELS = list(CHEXPERT14.labels)


def picture(path: Path, side: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(len(str(path)) + side).integers(0, 255, (side, side), dtype=np.uint8)
    Image.fromarray(grey).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images, two of one name, one of 32 pixels; DICOM without suffix; what is no film."""
    root = tmp_path / "films"
    for name in ("1.png", "1.jpg", "sub/1.png", "sub/2.png"):
        picture(root / name)
    picture(root / "small.png", 32)
    (root / "dicom").mkdir()
    for i, patient in enumerate(("P1", "P1", "P2", "ANONYMOUS", "0000", "")):
        film(
            root / "dicom" / f"{i}",
            np.full((32, 32), i * 99, np.uint16) + np.arange(32, dtype=np.uint16),
            PatientID=patient,
        )
    film(root / "dicom" / "6", np.arange(1024, dtype=np.uint16).reshape(32, 32), PatientID="P1", IssuerOfPatientID="B")
    (root / "README").write_text("no film")
    (root / "list.csv").write_text("a,b\n")
    return root


def rows(root: Path, folder: Path, **options) -> pd.DataFrame:
    return FilmFolder("mine", root, **options).prepare(folder, silent)


def test_every_film_is_there_once_and_no_label_is_judged(root, tmp_path, caplog):
    picture(root / "tiny.png", 20)
    found = rows(root, tmp_path / "set")
    assert found["study_id"].is_unique
    assert set(found["study_id"]) >= {"mine:1.png", "mine:1.jpg", "mine:sub/1", "mine:small", "mine:dicom/0"}
    assert len(found) == 5 + 7
    assert "1 of 13 films are left out, for a side has fewer than 32 pixels: tiny.png" in caplog.text
    assert found[LABELS].isna().all(axis=None)
    assert set(found["split"]) == {"test"}


def test_a_patient_is_a_salted_hash_of_dicoms_id_or_the_film_itself(root, tmp_path):
    one, again, other = (rows(root, tmp_path / name).set_index("path")["patient_id"] for name in ("a", "a", "b"))
    assert one.equals(again)  # the salt is kept
    assert not set(one) & set(other)  # and is of one folder
    assert one["dicom/0"] == one["dicom/1"] != one["dicom/2"]
    assert one["dicom/6"] != one["dicom/0"]  # another issuer's P1
    alone = [name for name in one.index if one[name].startswith("mine:film-")]
    assert sorted(alone) == sorted([*(n for n in one.index if "." in n), "dicom/3", "dicom/4", "dicom/5"])
    assert one[alone].is_unique
    assert not one.str.contains("P1|P2|ANON").any()
    salt = tmp_path / "a" / "salt"
    assert (stat.S_IMODE(salt.stat().st_mode), len(salt.read_bytes())) == (0o600, 32)
    salt.write_bytes(b"")  # as a kill could leave it: a hash without a salt can be looked up
    with pytest.raises(ValueError, match="salt is damaged: remove it and prepare again"):
        rows(root, tmp_path / "a")
    salt.unlink()
    assert not set(rows(root, tmp_path / "a")["patient_id"]) & set(one)


def test_one_id_for_most_films_is_said(tmp_path, caplog):
    (tmp_path / "films").mkdir()
    for i in range(30):
        film(tmp_path / "films" / f"{i}", np.arange(64, dtype=np.uint16).reshape(8, 8), PatientID="H-7")
    with caplog.at_level(logging.WARNING):
        assert rows(tmp_path / "films", tmp_path / "set")["patient_id"].nunique() == 1
    assert "30 of 30 films have one PatientID" in caplog.text


@pytest.mark.parametrize(("name", "told"), [("nowhere", "no folder"), ("empty", "no image and no DICOM file below")])
def test_a_folder_without_films_is_refused(tmp_path, name, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no film")
    for ask in (lambda s: s.provenance, lambda s: s.prepare(tmp_path / "set", silent)):
        with pytest.raises((ValueError, FileNotFoundError), match=f"{told} .*{name}; say images=FOLDER"):
            ask(FilmFolder("mine", tmp_path / name))


def test_a_folder_of_tiny_films_alone_is_refused(tmp_path):
    picture(tmp_path / "films" / "tiny.png", 20)
    with pytest.raises(ValueError, match=r"no film of 32 pixels below .*films; say images=FOLDER"):
        rows(tmp_path / "films", tmp_path / "set")


def test_broken_films_are_listed_once_and_the_rest_is_prepared(root, tmp_path, caplog):
    for i in range(3):
        (root / f"bad{i}.png").write_bytes(b"no picture")
    source, folder = FilmFolder("mine", root), tmp_path / "set"
    manifest = prepare_set(source, folder, "quarantine", policy=label_policy("ignore"))
    assert len(manifest.frame) == 12
    assert [caplog.text.count(f"bad{i}.png") for i in range(3)] == [1, 1, 1]
    assert len(pd.read_csv(folder / "quarantine.csv")) == 3
    write_audit({"mine": manifest}, {"mine": label_policy("ignore")}, tmp_path)
    assert "the patient of 8 of 12 films is unknown" in (tmp_path / "audit.html").read_text()
    picture(root / "new.png")
    assert len(prepare_set(source, folder, "quarantine", policy=label_policy("ignore")).frame) == 13


def table(root: Path, text: str, **options) -> pd.DataFrame:
    (root / "t.csv").write_text(text)
    return TableSource("t", root / "t.csv", root, **options).prepare(root / "set", silent)


def test_a_csv_without_label_columns_is_films_without_labels(root, caplog):
    found = table(root, "path,patient_id,age,StudyDate\n1.png,7,60,2020\nsub/2.png,8,,\n", age_column="age")
    assert "films without labels" in caplog.text
    assert found[LABELS].isna().all(axis=None)
    assert found["patient_id"].tolist() == ["t:7", "t:8"]
    found = table(root, "path\n1.png\ndicom/0\ndicom/1\n", patient_column="")
    assert found["patient_id"].str[:6].tolist() == ["t:film", "t:dico", "t:dico"]
    assert found["patient_id"].nunique() == 2


def test_a_csv_whose_labels_may_have_other_names_is_refused_and_the_way_out_works(root):
    text = "path,patient_id,Herz\n1.png,7,1\n"
    with pytest.raises(ValueError, match=r"label_columns=\{\} is films without labels; its columns: .*Herz"):
        table(root, text)
    assert table(root, text, label_columns={})[LABELS].isna().all(axis=None)
    with pytest.raises(ValueError, match=r"lacks the columns 'patient_id'.*patient_column= .empty: DICOM's PatientID"):
        table(root, "path\n1.png\n")
    with pytest.raises(ValueError, match="nearly spelled like a label: 'Pneumonie'"):
        table(root, "path,patient_id,Pneumonie\n1.png,7,1\n")
