"""Phantom films: bit-equal by seed, and every sign shows in the pixels where it belongs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.phantom.film import expose
from chexreason.phantom.institution import Institution, institution
from chexreason.phantom.patient import PhantomStudy, sample_patient
from chexreason.phantom.render import optical_density, render_film, sample_study
from chexreason.types import Sign
from tools.phantom_sheet import CASES, contact_sheet
from tools.tiny_models.phantom_stream import item, stream, truth

pytestmark = pytest.mark.slow  # each test renders

SIZE = 96
FINDINGS = sorted(set(CHEXPERT14.labels) - {"No Finding"})
LATERAL = sorted(set(FINDINGS) - {"Cardiomegaly", "Edema", "Enlarged Cardiomediastinum", "Support Devices"})
A, B = institution("a"), institution("b")


def phantom(seed: int, *signs: Sign, place: Institution = A) -> PhantomStudy:
    rng = np.random.default_rng(seed)
    return replace(sample_study(rng, sample_patient(rng), place), findings=signs, view="PA")


def change(seed: int, sign: Sign) -> np.ndarray:
    """Added density [SIZE, SIZE] of one sign on an otherwise healthy chest."""
    return optical_density(phantom(seed, sign), SIZE) - optical_density(phantom(seed), SIZE)


def test_equal_arguments_give_bit_equal_films_and_other_patients_or_visits_others():
    study = phantom(3, Sign("Pneumonia", "left", 0.8), Sign("Support Devices", "", 0.9))
    density = optical_density(study, SIZE)
    before = density.copy()
    expose(density, B.rendering, np.random.default_rng(0))
    np.testing.assert_array_equal(density, before)
    film = render_film(study, B.rendering, SIZE)
    np.testing.assert_array_equal(film, render_film(study, B.rendering, SIZE))
    for other in (phantom(2), replace(study, seed=7)):
        assert (film != render_film(other, B.rendering, SIZE)).mean() > 0.5


@pytest.mark.parametrize("size", [64, 97, 160])
def test_a_film_is_square_eight_bit_and_uses_its_range(size):
    film = render_film(phantom(1), A.rendering, size)
    assert film.shape == (size, size)
    assert film.dtype == np.uint8
    assert film.min() < 30
    assert film.max() > 200
    with pytest.raises(ValueError, match=">= 48"):
        render_film(phantom(1), A.rendering, 32)  # too small to show anything


def test_lungs_are_dark_and_the_heart_lies_on_the_images_right():
    density = np.mean([optical_density(phantom(seed), SIZE) for seed in range(8)], axis=0)
    middle, near = SIZE // 2, int(0.12 * SIZE)
    high, low = density[int(0.3 * SIZE) : int(0.5 * SIZE)], density[int(0.55 * SIZE) : int(0.66 * SIZE)]
    assert high[:, [int(0.28 * SIZE), int(0.72 * SIZE)]].mean() + 0.2 < high[:, middle].mean()
    assert low[:, middle + near : middle + 2 * near].mean() > low[:, middle - 2 * near : middle - near].mean()


@pytest.mark.parametrize("label", FINDINGS)
def test_every_finding_is_visible_on_the_exposed_film(label):
    for place in (A, B):
        sick, well = phantom(5, Sign(label, "left", 0.9), place=place), phantom(5, place=place)
        pair = [render_film(study, replace(place.rendering, noise=0.0), SIZE).astype(float) for study in (sick, well)]
        assert (np.abs(pair[0] - pair[1]) > 8).mean() > 0.004


@pytest.mark.parametrize("label", LATERAL)
@pytest.mark.parametrize(("side", "half"), [("left", np.s_[:, SIZE // 2 :]), ("right", np.s_[:, : SIZE // 2])])
def test_a_lateral_finding_changes_its_own_side(label, side, half):
    delta = np.mean([np.abs(change(seed, Sign(label, side, 0.35))) for seed in range(4)], axis=0)
    assert delta[half].sum() > 0.75 * delta.sum()


def test_effusion_fills_the_lower_lateral_zone_and_rises_with_severity():
    zone = np.s_[int(0.60 * SIZE) : int(0.72 * SIZE), int(0.74 * SIZE) : int(0.82 * SIZE)]
    added = [
        np.mean([change(seed, Sign("Pleural Effusion", "left", s))[zone].mean() for seed in range(4)])
        for s in (0.2, 0.9)
    ]
    assert 0.01 < added[0] < added[1]
    assert added[1] > 0.2


def test_pneumothorax_darkens_the_lateral_lung():
    delta = change(4, Sign("Pneumothorax", "right", 0.6))
    assert delta[int(0.3 * SIZE) : int(0.5 * SIZE), int(0.18 * SIZE) : int(0.24 * SIZE)].mean() < -0.05


@pytest.mark.parametrize("label", ["Cardiomegaly", "Enlarged Cardiomediastinum"])
def test_the_shadow_of_heart_or_mediastinum_widens_with_severity(label):
    top, bottom = (0.55, 0.65) if label == "Cardiomegaly" else (0.30, 0.42)
    rows, widths = np.s_[int(top * SIZE) : int(bottom * SIZE)], []
    for severity in (0.0, 0.5, 1.0):
        signs = (Sign(label, "", severity),) if severity else ()
        density = np.mean([optical_density(phantom(seed, *signs), SIZE) for seed in range(4)], axis=0)
        widths.append((density[rows] > 0.6).sum(axis=1).mean())
    assert widths[0] + 2 < widths[1]
    assert widths[1] + 2 < widths[2]


def test_adding_a_sign_leaves_the_others_where_they_are():
    lesion, device = Sign("Lung Lesion", "left", 0.5), Sign("Support Devices", "", 0.6)
    alone = change(6, lesion)
    with_device = optical_density(phantom(6, lesion, device), SIZE) - optical_density(phantom(6, device), SIZE)
    assert np.corrcoef(alone.ravel(), with_device.ravel())[0, 1] > 0.95


def test_parents_are_true_whenever_a_child_is():
    study = phantom(0, Sign("Pneumonia", "left", 0.4), Sign("Atelectasis", "right", 0.7), Sign("Cardiomegaly", "", 0.5))
    signs = {sign.label: sign for sign in study.signs}
    assert signs["Lung Opacity"] == Sign("Lung Opacity", "both", 0.7)
    assert signs["Enlarged Cardiomediastinum"] == Sign("Enlarged Cardiomediastinum", "", 0.5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_sampled_study_is_well_formed(seed):
    rng = np.random.default_rng(seed)
    study = sample_study(rng, sample_patient(rng), B)
    labels = [sign.label for sign in study.findings]
    assert labels == sorted(set(labels))
    assert set(labels) <= set(FINDINGS)
    assert all(0.0 < sign.severity <= 1.0 and sign.side in ("", "left", "right", "both") for sign in study.signs)
    assert 18 <= study.age <= 95


def test_workers_that_stride_see_together_what_one_worker_sees():
    alone = [film for film, _ in itertools.islice(stream(9, size=48), 6)]
    odd = [item(9, index, size=48)[0] for index in (1, 3, 5)]
    for one, two in zip(alone[1::2], odd, strict=True):
        np.testing.assert_array_equal(one, two)
    assert {study.institution for _, study in itertools.islice(stream(9, size=48), 8)} == {"a", "b"}
    np.testing.assert_array_equal(item(9, 4, size=48)[0], alone[4])


def test_truth_names_every_rendered_sign_and_no_finding_only_without_disease():
    healthy = truth(phantom(1, Sign("Support Devices", "", 0.3)))
    assert CHEXPERT14.decode(healthy.target) == ("No Finding", "Support Devices")
    sick = truth(phantom(1, Sign("Edema", "both", 0.05)))
    assert CHEXPERT14.decode(sick.target) == ("Edema", "Lung Opacity")
    assert all(sick.mask)


def test_the_contact_sheet_shows_each_label_once():
    assert sorted(case[0] for case in CASES) == list(CHEXPERT14.labels)
    assert np.asarray(contact_sheet(size=48)).std() > 20
