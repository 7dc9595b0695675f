"""Phantom hospitals as data: labels, shifts that separate, prevalence, splits, files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.phantom.institution import Labelling, institution, raw_labels
from chexreason.phantom.patient import PhantomStudy, sample_patient
from chexreason.phantom.render import sample_study
from chexreason.phantom.source import PhantomSource
from chexreason.progress import silent
from chexreason.types import Sign

pytestmark = pytest.mark.slow  # each test renders

LABELS = list(CHEXPERT14.labels)
SMALL = {"sft": 6, "rl": 3, "val": 2, "test": 4}


def rows(hospital: str, shift: str = "both", n: int = 100) -> pd.DataFrame:
    """Raw labels of a hospital without rendering a film."""
    source = PhantomSource("p", hospital, shift, {"test": n})
    luck = [(study, np.random.default_rng([study.seed, 99])) for *_, study in source.studies()]
    return pd.DataFrame([raw_labels(study, source.institution.labelling, rng) for study, rng in luck])


def prepared(folder, hospital: str, shift: str, seed: int = 0) -> tuple[pd.DataFrame, list[np.ndarray]]:
    source = PhantomSource("p", hospital, shift, SMALL, size=48, seed=seed)
    frame = source.prepare(folder, silent)
    return frame, [np.asarray(Image.open(folder / path)) for path in frame["path"]]


def study_with(*signs: Sign) -> PhantomStudy:
    rng = np.random.default_rng(0)
    return replace(sample_study(rng, sample_patient(rng), institution("a")), findings=signs)


def judged(labelling: Labelling, *signs: Sign) -> dict[str, float]:
    return raw_labels(study_with(*signs), labelling, np.random.default_rng(0))


@pytest.fixture(scope="module")
def shifts(tmp_path_factory):
    return {s: prepared(tmp_path_factory.mktemp(s), "b", s) for s in ("none", "pixels", "labels", "both")}


@pytest.fixture(scope="module")
def own():
    return rows("a", n=1200)


def test_prepare_is_deterministic_by_seed(tmp_path, shifts):
    frame, films = prepared(tmp_path / "again", "b", "both")
    pd.testing.assert_frame_equal(frame, shifts["both"][0])
    for one, two in zip(films, shifts["both"][1], strict=True):
        np.testing.assert_array_equal(one, two)
    other, _ = prepared(tmp_path / "other", "b", "both", seed=1)
    assert other["signs"].tolist() != frame["signs"].tolist()


def test_the_manifest_frame_has_its_columns_and_the_files_exist(tmp_path):
    frame, films = prepared(tmp_path, "a", "both")
    head = ["study_id", "patient_id", "dataset", "split", "path", "view", "age", "sex"]
    assert list(frame.columns) == [*head, *LABELS, "signs"]
    assert frame["split"].value_counts().to_dict() == SMALL
    assert all(film.shape == (48, 48) and film.dtype == np.uint8 for film in films)
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == sorted(f"{i}.png" for i in frame["study_id"])
    assert all(set(sign) == {"label", "side", "severity"} for row in frame["signs"] for sign in json.loads(row))


@pytest.mark.parametrize(("quiet", "shifted"), [("none", "labels"), ("pixels", "both")])
def test_a_label_shift_changes_labels_alone(shifts, quiet, shifted):
    for one, two in zip(shifts[quiet][1], shifts[shifted][1], strict=True):
        np.testing.assert_array_equal(one, two)
    assert not shifts[quiet][0][LABELS].equals(shifts[shifted][0][LABELS])


@pytest.mark.parametrize(("quiet", "shifted"), [("none", "pixels"), ("labels", "both")])
def test_a_pixel_shift_changes_pixels_alone(shifts, quiet, shifted):
    pd.testing.assert_frame_equal(shifts[quiet][0][LABELS], shifts[shifted][0][LABELS])
    assert all((one != two).mean() > 0.3 for one, two in zip(shifts[quiet][1], shifts[shifted][1], strict=True))


def test_hospital_b_is_blank_exactly_outside_the_nine():
    blank = rows("b").isna()
    assert blank[[label for label in LABELS if label not in NIH9.labels]].all(axis=None)
    assert not blank[list(NIH9.labels)].any(axis=None)
    assert not rows("a").isna().any(axis=None)


def test_every_label_is_common_enough_to_learn_and_none_dominates(own):
    positive = (own == 1.0).mean()
    assert positive.min() >= 0.05
    assert positive.drop("Lung Opacity").max() <= 0.40
    assert 0.18 <= positive["No Finding"] <= 0.27
    assert 0.03 < (own == -1.0).any(axis=1).mean() < 0.20


def test_diseases_come_together_as_they_do_in_patients(own):
    table = own == 1.0
    assert table.loc[table["Edema"], "Cardiomegaly"].mean() > 2 * table["Cardiomegaly"].mean()
    devices = table.groupby("No Finding")["Support Devices"].mean()
    assert devices[False] > devices[True]


def test_hospital_a_respects_the_hierarchy_of_labels(own):
    for child in ("Atelectasis", "Consolidation", "Edema", "Lung Lesion", "Pneumonia"):
        assert (own.loc[own[child] == 1.0, "Lung Opacity"] == 1.0).all()
    assert (own.loc[own["Cardiomegaly"] == 1.0, "Enlarged Cardiomediastinum"] == 1.0).all()
    disease = own.drop(columns=["No Finding", "Support Devices"])
    assert ((own["No Finding"] == 1.0) == (disease == 0.0).all(axis=1)).all()


@pytest.mark.parametrize(("severity", "raw"), [(0.6, 1.0), (0.5, 1.0), (0.45, -1.0), (0.39, 0.0)])
def test_threshold_and_uncertainty_band(severity, raw):
    labelling = Labelling(CHEXPERT14.labels, CHEXPERT14.labels, {"Fracture": 0.5}, default_threshold=0.9, band=0.1)
    result = judged(labelling, Sign("Fracture", "left", severity))
    assert result["Fracture"] == raw
    assert result["No Finding"] == float(raw == 0.0)


def test_a_class_that_is_read_but_not_reported_still_rules_out_no_finding():
    labelling = Labelling(read=("No Finding", "Pleural Effusion"), reported=("No Finding",))
    effusion = judged(labelling, Sign("Pleural Effusion", "left", 0.9))
    fracture = judged(labelling, Sign("Fracture", "left", 0.9))
    assert (effusion["No Finding"], fracture["No Finding"]) == (0.0, 1.0)
    assert np.isnan(effusion["Pleural Effusion"])


def test_label_noise_loses_and_invents_at_the_declared_rates():
    noisy = replace(institution("a").labelling, miss=0.3, invent=0.1, default_threshold=0.0, band=0.0)
    sign = Sign("Fracture", "left", 0.9)
    rng = np.random.default_rng(0)
    drawn = pd.DataFrame([raw_labels(study_with(sign), noisy, rng) for _ in range(600)])
    assert drawn["Fracture"].mean() == pytest.approx(0.7, abs=0.08)
    assert drawn["Pneumothorax"].mean() == pytest.approx(0.1, abs=0.05)


def test_no_patient_crosses_a_split_and_visits_share_anatomy():
    source = PhantomSource("p", "a", n={"sft": 200, "rl": 100, "val": 50, "test": 80})
    table = pd.DataFrame(
        [(split, patient_id, study_id, study.patient.seed) for split, patient_id, study_id, study in source.studies()],
        columns=["split", "patient", "study", "anatomy"],
    )
    assert (table.groupby("patient")["split"].nunique() == 1).all()
    assert (table.groupby("patient")["anatomy"].nunique() == 1).all()
    assert table.groupby("anatomy")["split"].nunique().max() == 1
    assert table["study"].is_unique
    assert 2 <= table.groupby("patient").size().max() <= 3
    other = {study.patient.seed for *_, study in PhantomSource("p", "b", n={"test": 50}).studies()}
    assert other.isdisjoint(table["anatomy"])  # the hospitals have different patients


def test_provenance_survives_json_and_tells_parameters_apart():
    one, same, other = (PhantomSource("p", "b", shift, SMALL) for shift in ("both", "both", "pixels"))
    assert json.dumps(one.provenance) == json.dumps(same.provenance) != json.dumps(other.provenance)
    assert one.image_root is None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"hospital": "c"}, "'c'"),
        ({"hospital": "b", "shift": "all"}, "'all'"),
        ({"hospital": "a", "n": {"train": 3}}, "train"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, word):
    with pytest.raises(ValueError, match=word):
        PhantomSource("p", **arguments)
