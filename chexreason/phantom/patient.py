"""The patient: the lasting shape of one chest, and one visit with its findings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chexreason.labels.catalog import PARENT_OF
from chexreason.types import Sign


@dataclass(frozen=True, slots=True)
class Patient:
    """The lasting traits of one patient; lengths in half image widths, latents standard normal unless stated.

    ``heart`` and ``frailty`` drive chronic disease, ``age_z`` becomes an age through the hospital's age mix.
    """

    seed: int
    sex: str
    age_z: float
    frailty: float
    heart: float
    width: float
    apex: float
    dome: float
    habitus: float
    tilt: float
    rib_pitch: float
    knob: float


@dataclass(frozen=True, slots=True)
class PhantomStudy:
    """One visit: ``findings`` are rendered into the pixels, everything else of the film follows from ``seed``."""

    seed: int
    patient: Patient
    findings: tuple[Sign, ...]
    view: str
    age: int
    sex: str
    institution: str = ""

    @property
    def signs(self) -> tuple[Sign, ...]:
        """Findings plus the parent observations they imply, one sign a label, ordered by label."""
        found = {sign.label: sign for sign in self.findings}
        for child in self.findings:
            parent = PARENT_OF.get(child.label)
            if parent is not None:
                found[parent] = _merge(found.get(parent), Sign(parent, _parent_side(parent, child), child.severity))
        return tuple(found[label] for label in sorted(found))


def _parent_side(parent: str, child: Sign) -> str:
    return child.side if parent == "Lung Opacity" else ""


def _merge(first: Sign | None, second: Sign) -> Sign:
    if first is None:
        return second
    side = first.side if first.side == second.side else "both"
    return Sign(first.label, side, max(first.severity, second.severity))


def sample_patient(rng: np.random.Generator) -> Patient:
    """A patient drawn from the one population both hospitals serve."""
    z = rng.standard_normal(9)
    sex = "M" if rng.random() < 0.54 else "F"
    small = 0.02 if sex == "F" else 0.0
    return Patient(
        seed=int(rng.integers(2**62)),
        sex=sex,
        age_z=float(z[0]),
        frailty=float(0.45 * z[0] + 0.9 * z[1]),
        heart=float(0.35 * z[0] + 0.94 * z[2]),
        width=float(0.70 - small + 0.035 * np.clip(z[3], -2, 2)),
        apex=float(-0.76 + 0.04 * np.clip(z[4], -2, 2)),
        dome=float(0.42 + 0.06 * np.clip(z[5], -2, 2)),
        habitus=float(np.clip(0.5 + 0.25 * z[6], 0.0, 1.0)),
        tilt=float(np.clip(z[7], -2, 2)),
        rib_pitch=float(rng.uniform(0.125, 0.145)),
        knob=float(np.clip(0.10 + 0.015 * z[8], 0.07, 0.13)),
    )
