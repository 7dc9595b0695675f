"""The case mix: findings that occur together as diseases cause them, each with side and severity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from chexreason.phantom.patient import Patient
from chexreason.types import Sign

_SIDES = ("left", "right", "both")
MIDLINE = {"Cardiomegaly", "Enlarged Cardiomediastinum", "Support Devices"}

# One row a disease process: (relative frequency, ((label, probability, where), ...)). "where" is "same" for the side
# of the process, "any" for its own draw, "both" for bilateral, "" for the midline.
PROCESSES: dict[str, tuple[float, tuple[tuple[str, float, str], ...]]] = {
    "heart failure": (
        0.22,
        (("Cardiomegaly", 0.85, ""), ("Edema", 0.80, "both"), ("Pleural Effusion", 0.60, "any")),
    ),
    "infection": (
        0.24,
        (("Pneumonia", 0.72, "same"), ("Consolidation", 0.55, "same"), ("Pleural Effusion", 0.22, "same")),
    ),
    "collapse": (0.20, (("Atelectasis", 1.0, "same"), ("Pleural Effusion", 0.30, "same"))),
    "nodule": (0.14, (("Lung Lesion", 1.0, "same"), ("Atelectasis", 0.12, "same"), ("Pleural Effusion", 0.12, "same"))),
    "trauma": (0.12, (("Fracture", 1.0, "same"), ("Pneumothorax", 0.30, "same"), ("Pleural Effusion", 0.12, "same"))),
    "air leak": (0.09, (("Pneumothorax", 1.0, "same"), ("Atelectasis", 0.12, "same"))),
    "old pleural disease": (0.13, (("Pleural Other", 1.0, "any"), ("Pleural Effusion", 0.15, "same"))),
    "wide mediastinum": (0.08, (("Enlarged Cardiomediastinum", 1.0, ""),)),
    "big heart": (0.09, (("Cardiomegaly", 1.0, ""),)),
    "haze": (0.12, (("Lung Opacity", 1.0, "any"),)),
    "fluid": (0.08, (("Pleural Effusion", 1.0, "any"),)),
}
_NAMES = tuple(PROCESSES)
_RATES = np.array([rate for rate, _ in PROCESSES.values()])
HEALTHY = 0.24  # chance of a visit without a new disease process, at average frailty
CHRONIC_HEART = 1.25  # patients above this latent always come with a big heart
NEW_DISEASE = "new disease"  # in a case mix: the odds of any new process


def sample_findings(
    rng: np.random.Generator, patient: Patient, case_mix: Mapping[str, float] | None = None
) -> tuple[Sign, ...]:
    """Findings of one visit, one sign a label, in label order.

    ``case_mix`` says how many times as frequent a process of ``PROCESSES`` is, or how many times the odds of
    ``NEW_DISEASE`` are; what it leaves out is as frequent as here.
    """
    mix = case_mix or {}
    rates = _RATES * np.array([mix.get(name, 1.0) for name in _NAMES])
    illness = 0.75 * patient.frailty + 0.66 * float(rng.standard_normal())
    found: dict[str, Sign] = {}
    if patient.heart > CHRONIC_HEART:
        _add(found, "Cardiomegaly", "", min(1.0, 0.35 + 0.4 * (patient.heart - CHRONIC_HEART)))
    if rng.random() > _healthy(illness, mix.get(NEW_DISEASE, 1.0)):
        n_processes = 1 + int(rng.random() < 0.42 + 0.12 * illness) + int(rng.random() < 0.12)
        for name in rng.choice(_NAMES, size=n_processes, replace=False, p=rates / rates.sum()):
            _act(rng, found, str(name), illness)
    burden = len(found)
    if rng.random() < 0.08 + 0.11 * burden + 0.05 * max(illness, 0.0):
        _add(found, "Support Devices", "", float(rng.uniform(0.2, 1.0)))
    return tuple(found[label] for label in sorted(found))


def _healthy(illness: float, odds: float) -> float:
    healthy = float(np.clip(HEALTHY - 0.14 * illness, 0.02, 0.75))
    return healthy / (healthy + odds * (1.0 - healthy))


def _act(rng: np.random.Generator, found: dict[str, Sign], process: str, illness: float) -> None:
    """Add the signs of one disease process to ``found``, in place."""
    home = _SIDES[int(rng.random() < 0.53)]
    level = float(np.clip(rng.beta(1.7, 1.5) + 0.06 * illness, 0.0, 1.0))
    members = PROCESSES[process][1]
    hits = [member for member in members if rng.random() < member[1]] or [members[0]]
    for label, _, where in hits:
        severity = float(np.clip(0.12 + 0.88 * level + rng.normal(0.0, 0.12), 0.08, 1.0))
        side = {"same": home, "any": _any_side(rng), "both": "both", "": ""}[where]
        _add(found, label, side, severity)


def _any_side(rng: np.random.Generator) -> str:
    return _SIDES[int(rng.choice(3, p=(0.33, 0.37, 0.30)))]


def _add(found: dict[str, Sign], label: str, side: str, severity: float) -> None:
    """Add a sign, or widen the one of the same label that is already there."""
    old = found.get(label)
    if old is not None:
        side = side if side == old.side else "both"
        severity = max(severity, old.severity)
    found[label] = Sign(label, "" if label in MIDLINE else side, round(severity, 3))
