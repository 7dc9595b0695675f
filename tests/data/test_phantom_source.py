"""Phantom hospitals as data: labels, shifts that separate, prevalence, splits, files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.phantom.institution import Labelling, institution, raw_labels
from chexreason.phantom.patient import PhantomStudy, sample_patient
from chexreason.phantom.render import render_film, sample_study
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
    names = ("none", "acquisition", "population", "annotation", "prevalence", "both")
    return {s: prepared(tmp_path_factory.mktemp(s), "b", s) for s in names}


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


def test_each_shift_changes_its_part_alone(shifts):
    def differ(one: str, two: str) -> list[float]:
        return [(a != b).mean() for a, b in zip(shifts[one][1], shifts[two][1], strict=True)]

    frames = {name: frame for name, (frame, _) in shifts.items()}
    meant = {"annotation": ["labels"], "acquisition": ["films"], "population": ["age", "films"]}
    for name, changed in {**meant, "prevalence": ["signs", "labels", "films"]}.items():
        found = [c for c in ("age", "sex", "patient_id", "signs") if not frames[name][c].equals(frames["none"][c])]
        found += ["labels"] * (not frames[name][LABELS].equals(frames["none"][LABELS]))
        assert found + ["films"] * any(differ(name, "none")) == changed, name
    assert min(differ("acquisition", "none")) > 0.3  # every film; of the population those that are AP now
    assert frames["population"]["age"].mean() < frames["none"]["age"].mean()
    assert frames["both"][LABELS].equals(frames["annotation"][LABELS])
    for film, acquired, view, before in zip(
        shifts["both"][1], shifts["acquisition"][1], frames["both"]["view"], frames["none"]["view"], strict=True
    ):
        assert np.array_equal(film, acquired) == (view == before)


@pytest.mark.parametrize(("old", "new"), [("labels", "annotation"), ("pixels", None)])
def test_the_names_of_earlier_versions_are_accepted(old, new):
    both, found = institution("b"), institution("b", old)
    if new:
        assert found == institution("b", new)
    else:
        assert (found.rendering, found.labelling) == (both.rendering, institution("a").labelling)


@pytest.mark.parametrize("shift", ["acquisition", "population", "annotation", "prevalence", "both"])
def test_a_dose_moves_from_a_over_b_and_beyond(shift):
    none, half, one, two = (institution("b", shift, dose) for dose in (0.0, 0.5, 1.0, 2.0))
    assert (none, one) == (institution("b", "none"), institution("b", shift))
    if shift == "acquisition":
        assert [h.rendering.contrast for h in (half, one, two)] == pytest.approx([0.9, 0.8, 0.6])
        assert [h.rendering.blur for h in (none, one, two)] == [0, 1, 2]
        assert half.rendering.age_mean == none.rendering.age_mean
    if shift == "annotation":
        edema = [h.labelling.threshold["Edema"] for h in (half, one, two)]
        assert edema == pytest.approx([0.355, 0.45, 0.64])
        assert (two.labelling.band, two.labelling.miss) == (0.0, 0.1)  # nothing is less often than never
    if shift == "prevalence":
        assert half.case_mix["infection"] ** 2 == pytest.approx(one.case_mix["infection"])
    with pytest.raises(ValueError, match="dose=3"):
        PhantomSource("p", "b", dose=3.0)


def test_a_case_mix_changes_who_comes_and_not_how_a_finding_looks():
    ours, theirs = (rows("b", shift, 900) for shift in ("none", "prevalence"))
    ratio = (theirs == 1.0).mean() / (ours == 1.0).mean()
    assert ratio["No Finding"] > 1.3
    assert ratio["Pneumonia"] < 0.6
    assert ratio["Cardiomegaly"] > 1.15 * ratio["Lung Lesion"]
    assert institution("b", "prevalence").rendering == institution("a").rendering
    assert institution("b", "prevalence").labelling == institution("a").labelling


@pytest.mark.parametrize(
    ("hospital", "labels", "mean"), [("a", "eb62105bf8838ada", 141.706), ("b", "f72654a65c01e7fe", 163.2885)]
)
def test_the_default_hospitals_are_what_they_were(hospital, labels, mean):
    """Of 27 and 23 studies; pixels differ by a grey level between processors."""
    source = PhantomSource("p", hospital, n={**({"sft": 4} if hospital == "a" else {}), "val": 3, "test": 20}, size=48)
    digest, means = hashlib.sha256(), []
    for split, patient, name, study in source.studies():
        raw = raw_labels(study, source.institution.labelling, np.random.default_rng([study.seed, 99]))
        row = [split, patient, name, study.view, study.age, study.sex, *raw.values()]
        digest.update(json.dumps([*row[:6], row[6:]]).encode())
        means.append(render_film(study, source.institution.rendering, 48).mean())
    assert digest.hexdigest()[:16] == labels
    assert np.mean(means) == pytest.approx(mean, abs=2e-3)
    assert "dose" not in source.provenance  # the sets that were prepared before doses are up to date


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
    one, same, other = (PhantomSource("p", "b", shift, SMALL) for shift in ("both", "both", "acquisition"))
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
