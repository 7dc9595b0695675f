"""An endless supply of phantoms for pre-training: item i of a seed is always the same film."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexreason.labels.catalog import CHEXPERT14
from chexreason.phantom.institution import INSTITUTIONS, Institution
from chexreason.phantom.patient import PhantomStudy, sample_patient
from chexreason.phantom.render import render_film, sample_study
from chexreason.types import Study


def phantom(seed: int, index: int, institution_names: Sequence[str] = ("a", "b")) -> tuple[PhantomStudy, Institution]:
    """Phantom number ``index``, a fresh patient at one of the named hospitals, and that hospital."""
    rng = np.random.default_rng([seed, index])
    hospital = INSTITUTIONS[institution_names[int(rng.integers(len(institution_names)))]]
    return sample_study(rng, sample_patient(rng), hospital), hospital


def item(
    seed: int, index: int, institution_names: Sequence[str] = ("a", "b"), size: int = 160
) -> tuple[NDArray[np.uint8], PhantomStudy]:
    """Film [size, size] uint8 of a phantom, and the phantom."""
    study, hospital = phantom(seed, index, institution_names)
    return render_film(study, hospital.rendering, size), study


def stream(
    seed: int, institution_names: Sequence[str] = ("a", "b"), size: int = 160
) -> Iterator[tuple[NDArray[np.uint8], PhantomStudy]]:
    """Yield items 0, 1, ... for ever."""
    for index in itertools.count():
        yield item(seed, index, institution_names, size)


def truth(phantom: PhantomStudy, study_id: str = "phantom", image: Path = Path()) -> Study:
    """The phantom as a fully labelled CheXpert-14 study: every rendered sign is true, however faint."""
    present = {sign.label for sign in phantom.signs}
    if not present - {"Support Devices"}:
        present.add("No Finding")
    return Study(
        study_id=study_id,
        patient_id=f"phantom-{phantom.patient.seed}",
        dataset=f"phantom_{phantom.institution}",
        image=image,
        target=CHEXPERT14.encode(present),
        mask=(True,) * len(CHEXPERT14),
        view=phantom.view,
        age=phantom.age,
        sex=phantom.sex,
        signs=phantom.signs,
    )
