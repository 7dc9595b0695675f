"""Two hospitals: whom each sees, how each exposes its films, and how each turns what is in them into labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.phantom.casemix import NEW_DISEASE
from chexreason.phantom.patient import PhantomStudy


@dataclass(frozen=True)
class Rendering:
    """How a hospital makes films: exposure, contrast and so on are means; every film varies a little around them."""

    exposure: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.012
    blur: int = 0
    veil: float = 0.0
    border: float = 0.0
    marker: str = "L"
    ap_share: float = 0.25
    age_mean: float = 58.0
    age_sd: float = 17.0


@dataclass(frozen=True)
class Labelling:
    """How a hospital labels: ``read`` classes are looked for, ``reported`` ones reach the table, the rest stay blank.

    A sign counts from ``threshold`` (by label, else ``default_threshold``) on, is uncertain (-1) within ``band`` below
    it, and absent below that. ``miss`` and ``invent`` are the shares of positives lost and of negatives made up.
    """

    read: tuple[str, ...]
    reported: tuple[str, ...]
    threshold: Mapping[str, float] = field(default_factory=dict)
    default_threshold: float = 0.0
    band: float = 0.0
    miss: float = 0.0
    invent: float = 0.0


@dataclass(frozen=True)
class Institution:
    """A hospital: its name, its films, its labels, and which diseases it sees (see ``sample_findings``)."""

    name: str
    rendering: Rendering
    labelling: Labelling
    case_mix: Mapping[str, float] = field(default_factory=dict)


RENDERING_A = Rendering()
RENDERING_B = Rendering(
    exposure=0.07, contrast=0.80, gamma=0.85, noise=0.024, blur=1, veil=0.16, border=0.55, marker="PORTABLE",
    ap_share=0.65, age_mean=49.0, age_sd=19.0,
)  # fmt: skip
LABELLING_A = Labelling(read=CHEXPERT14.labels, reported=CHEXPERT14.labels, default_threshold=0.26, band=0.14)
LABELLING_B = Labelling(
    read=(*NIH9.labels, "Pleural Effusion", "Lung Opacity"),
    reported=NIH9.labels,
    threshold={"Cardiomegaly": 0.45, "Edema": 0.45, "Atelectasis": 0.12, "Pneumonia": 0.35, "Consolidation": 0.35},
    default_threshold=0.20,
    miss=0.05,
    invent=0.01,
)
INSTITUTIONS = {
    "a": Institution("a", RENDERING_A, LABELLING_A),
    "b": Institution("b", RENDERING_B, LABELLING_B),
}
# A hospital that sees other diseases: more hearts and trauma, fewer infections and nodules, more healthy visitors.
CASE_MIX_B = {NEW_DISEASE: 0.45, "heart failure": 2.2, "big heart": 2.0, "infection": 0.4, "nodule": 0.4, "trauma": 2.0}
POPULATION = ("ap_share", "age_mean", "age_sd")  # who is filmed; the rest of a Rendering is how
PARTS = ("acquisition", "population", "annotation", "prevalence")
# What each shift changes. The last two are names of earlier versions.
SHIFTS = {"both": PARTS[:3], **{part: (part,) for part in PARTS}, "none": (), "pixels": PARTS[:2], "labels": PARTS[2:3]}


def institution(hospital: str, shift: str = "both", dose: float = 1.0) -> Institution:
    """Hospital "a", or "b" with only the named part of its difference to "a", ``dose`` times as far from "a".

    Every number moves on the line through "a" (dose 0) and "b" (dose 1), but not below 0; the marker, and the classes
    that are read and reported, are those of "b" at any dose above 0. Raises ValueError on other names or doses.
    """
    if hospital not in INSTITUTIONS or shift not in SHIFTS:
        raise ValueError(
            f"unknown hospital '{hospital}' or shift '{shift}'; use one of {sorted(INSTITUTIONS)} and {list(SHIFTS)}"
        )
    if not 0.0 <= dose <= 2.0:
        raise ValueError(f"dose={dose}: a shift has a dose from 0 (none) over 1 (hospital b) to 2")
    ours, theirs, parts = INSTITUTIONS["a"], INSTITUTIONS[hospital], SHIFTS[shift] if dose and hospital != "a" else ()
    film = {f.name for f in fields(Rendering) if PARTS[f.name in POPULATION] in parts}
    rendering, labelling = _towards(ours.rendering, theirs.rendering, dose, film), ours.labelling
    if "annotation" in parts:
        labelling = _towards(labelling, theirs.labelling, dose, {f.name for f in fields(Labelling)})
        cuts, start = theirs.labelling.threshold, ours.labelling.default_threshold
        labelling = replace(labelling, threshold={label: _between(start, cut, dose) for label, cut in cuts.items()})
    mix = CASE_MIX_B if "prevalence" in parts else {}
    return Institution(hospital, rendering, labelling, {name: ratio**dose for name, ratio in mix.items()})


def _towards(ours: Any, theirs: Any, dose: float, names: Collection[str]) -> Any:
    """``ours`` with the fields ``names`` of ``theirs``, numbers ``dose`` times as far."""
    return replace(ours, **{name: _between(getattr(ours, name), getattr(theirs, name), dose) for name in names})


def _between(ours: Any, theirs: Any, dose: float) -> Any:
    """What is no number is theirs; a whole number stays whole."""
    if dose == 1.0 or not isinstance(theirs, int | float):
        return theirs
    there = max(ours + dose * (theirs - ours), 0.0)
    return round(there) if isinstance(theirs, int) else there


def raw_labels(study: PhantomStudy, labelling: Labelling, rng: np.random.Generator) -> dict[str, float]:
    """Raw labels by CheXpert name, in order: 1.0, 0.0, -1.0 (uncertain) or NaN (never judged).

    "No Finding" follows CheXpert: nothing that is read, other than Support Devices, is positive or uncertain.
    Always consumes the same random numbers, so two labellings of one study differ by their rules alone.
    """
    severity = {sign.label: sign.severity for sign in study.signs}
    luck = dict(zip(CHEXPERT14.labels, rng.random(len(CHEXPERT14)), strict=True))
    read = {
        label: _judge(label, severity.get(label), labelling, float(luck[label]))
        for label in labelling.read
        if label != "No Finding"
    }
    read["No Finding"] = float(not any(value for label, value in read.items() if label != "Support Devices"))
    return {label: read[label] if label in labelling.reported else float("nan") for label in CHEXPERT14.labels}


def _judge(label: str, severity: float | None, labelling: Labelling, luck: float) -> float:
    threshold = labelling.threshold.get(label, labelling.default_threshold)
    if severity is not None and severity >= threshold:
        return float(luck >= labelling.miss)
    if severity is not None and severity >= threshold - labelling.band:
        return -1.0
    return float(luck < labelling.invent)
