"""One film of one phantom: anatomy, then signs, then the hospital's way of exposing it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from chexreason.labels.catalog import CHEXPERT14
from chexreason.phantom import opacities, pleura, tissue
from chexreason.phantom.casemix import sample_findings
from chexreason.phantom.fields import Field
from chexreason.phantom.film import expose
from chexreason.phantom.institution import Institution, Rendering
from chexreason.phantom.patient import Patient, PhantomStudy
from chexreason.phantom.thorax import Thorax, build_thorax
from chexreason.types import Sign

MIN_SIZE = 48
FILLINGS = {
    "Edema": opacities.edema,
    "Lung Opacity": opacities.haze,
    "Pneumonia": opacities.pneumonia,
    "Consolidation": opacities.consolidation,
    "Atelectasis": opacities.atelectasis,
    "Lung Lesion": opacities.lesion,
}


def sample_study(rng: np.random.Generator, patient: Patient, institution: Institution) -> PhantomStudy:
    """One visit of ``patient``; the same draws give the same findings at every institution of one case mix."""
    seed = int(rng.integers(2**62))
    view_luck = rng.random()
    findings = sample_findings(rng, patient, institution.case_mix)
    film = institution.rendering
    age = int(np.clip(film.age_mean + film.age_sd * patient.age_z, 18, 95))
    view = "AP" if view_luck < film.ap_share else "PA"
    return PhantomStudy(seed, patient, findings, view, age, patient.sex, institution.name)


def render_film(study: PhantomStudy, rendering: Rendering, size: int = 160) -> NDArray[np.uint8]:
    """Film [size, size] uint8 of ``study``; bit-equal for equal arguments.

    Each sign draws from its own generator, so adding one leaves the others where they are. Raises ValueError below
    MIN_SIZE, where signs and marker no longer fit.
    """
    if size < MIN_SIZE:
        raise ValueError(f"a phantom film of {size} px is too small to show its signs; use size >= {MIN_SIZE}")
    return expose(optical_density(study, size), rendering, _generator(study, 98))


def optical_density(study: PhantomStudy, size: int) -> Field:
    """Noise-free density [size, size] of ``study`` before any hospital touches it, about 0..1."""
    found = {sign.label: sign for sign in study.findings}
    patient, rng = study.patient, _generator(study, 97)
    jitter = np.clip(rng.standard_normal(4), -2.0, 2.0).astype(np.float32)
    thorax = build_thorax(patient, found, study.view, size, jitter)
    density: Field = tissue.soft_tissue(thorax, patient, study.view)
    density = tissue.carve_lungs(density, thorax, patient, tissue.parenchyma(rng, size))
    tree = tissue.vessels(thorax, patient, found)
    density, tree = _free_air(density, tree, thorax, found)
    density = density + 0.19 * tree
    for label, fill in FILLINGS.items():
        if label in found:
            density = _blend(density, fill(thorax, found[label], _generator(study, CHEXPERT14.index(label))))
    density = tissue.midline(density, thorax, patient, found, study.view)
    density = _pleural(density, study, thorax, found)
    bone = tissue.skeleton(thorax, patient, found, _generator(study, CHEXPERT14.index("Fracture")))
    density = density + bone * np.clip(4.0 * density - 0.2, 0.0, 1.0)  # no bone outside the body
    if "Support Devices" in found:
        label = "Support Devices"
        hardware = pleura.devices(thorax, found[label], _generator(study, CHEXPERT14.index(label)))
        density = density + hardware * (1.02 - density) * 0.85
    return density


def _generator(study: PhantomStudy, purpose: int) -> np.random.Generator:
    return np.random.default_rng([study.seed, purpose])


def _blend(density: Field, opacity: Field) -> Field:
    return density + opacity * (tissue.WATER - density)


def _free_air(density: Field, tree: Field, thorax: Thorax, found: Mapping[str, Sign]) -> tuple[Field, Field]:
    """Push lung and vessels away where a pneumothorax lies, leaving its visceral line."""
    sign = found.get("Pneumothorax")
    if sign is None:
        return density, tree
    air, line = pleura.pneumothorax(thorax, sign)
    return density + air * (0.10 - density) * 0.85 + 0.17 * line, tree * (1.0 - air)


def _pleural(density: Field, study: PhantomStudy, thorax: Thorax, found: Mapping[str, Sign]) -> Field:
    if "Pleural Other" in found:
        rng = _generator(study, CHEXPERT14.index("Pleural Other"))
        soft, lime = pleura.thickening(thorax, found["Pleural Other"], rng)
        density = _blend(density, soft) + 0.22 * lime
    if "Pleural Effusion" in found:
        density = _blend(density, pleura.effusion(thorax, found["Pleural Effusion"]))
    return density
