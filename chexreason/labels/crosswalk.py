"""Crosswalks: what a vendor's finding names mean in CheXpert's fourteen labels; NIH ChestX-ray14's in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from chexreason.labels.catalog import CHEXPERT14

# Every name NIH uses, and the CheXpert label it makes positive; "" has no CheXpert counterpart.
# Lung Lesion = Mass or Nodule and Pleural Other = Pleural_Thickening as in the paper (section 2 of its data).
NIH_TO_CHEXPERT = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Effusion": "Pleural Effusion",
    "Emphysema": "",
    "Fibrosis": "",
    "Hernia": "",
    "Infiltration": "",
    "Mass": "Lung Lesion",
    "No Finding": "No Finding",
    "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}

# NIH has no Lung Opacity; CheXpert's is the parent of these, so any of them makes it positive. This is derived, not
# read: radiologists' "airspace opacity" agrees with it on about two thirds of the re-read images.
NIH_OPACITY = ("Infiltration", "Consolidation", "Pneumonia", "Edema", "Atelectasis", "Mass", "Nodule")

# CheXpert labels that NIH never judges: blank, not absent.
NOT_IN_NIH = ("Enlarged Cardiomediastinum", "Fracture", "Support Devices")


@dataclass(frozen=True)
class Crosswalk:
    """What each name of ``vendor`` means: ``names`` maps it to our labels (none, one or several).

    ``derived`` maps a label the vendor has no name for to the names of which any makes it positive.
    """

    vendor: str
    names: Mapping[str, tuple[str, ...]]
    derived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: vendor name, its label or "", the labels derived from it or ""."""
        return [
            (name, ", ".join(labels), ", ".join(label for label, parts in self.derived.items() if name in parts))
            for name, labels in self.names.items()
        ]


NIH14 = Crosswalk(
    "NIH ChestX-ray14",
    {name: (label,) if label else () for name, label in NIH_TO_CHEXPERT.items()},
    {"Lung Opacity": NIH_OPACITY},
)


def crosswalk_of(provenance: Mapping[str, object]) -> Crosswalk | None:
    """The crosswalk a set was read with, from the provenance in its manifest; None where its names are ours.

    A source may declare its own as ``crosswalk`` (its name -> our label, a list of labels, or "" for none).
    """
    source = str(provenance.get("source", ""))
    declared, columns = provenance.get("crosswalk"), provenance.get("label_columns")
    if isinstance(declared, Mapping):
        return Crosswalk(source, {str(name): _listed(labels) for name, labels in declared.items()})
    if source == "nih14":
        return NIH14 if provenance.get("include_opacity", True) else Crosswalk(NIH14.vendor, NIH14.names)
    if isinstance(columns, Mapping):  # of a table: our label -> its column or columns
        theirs = dict.fromkeys(name for names in columns.values() for name in _listed(names))
        labels = {name: tuple(ours for ours, names in columns.items() if name in _listed(names)) for name in theirs}
        return Crosswalk("the table's columns", labels)
    return None


def _listed(names: object) -> tuple[str, ...]:
    """One name, several or "" as a tuple."""
    if isinstance(names, str):
        return (names,) if names else ()
    return tuple(str(name) for name in names) if isinstance(names, Iterable) else ()


def nih_to_chexpert(finding_strings: Iterable[str], include_opacity: bool = True) -> npt.NDArray[np.float64]:
    """Raw marks [N, 14] in the order of ``CHEXPERT14`` for findings written as NIH does, "Effusion|Mass".

    Marks are 1 (present), 0 (absent) and NaN (never judged by NIH; Lung Opacity too unless ``include_opacity``).
    Raises ValueError naming an unknown finding, or "No Finding" beside another.
    """
    rows = [_marks(text, include_opacity) for text in finding_strings]
    return np.stack(rows) if rows else np.empty((0, len(CHEXPERT14)))


@cache  # 112,120 images share a few hundred combinations
def _marks(text: str, include_opacity: bool) -> npt.NDArray[np.float64]:
    findings = text.split("|")
    for finding in findings:
        if finding not in NIH_TO_CHEXPERT:
            raise ValueError(f"unknown NIH finding '{finding}' in '{text}'; known: {', '.join(NIH_TO_CHEXPERT)}")
    if "No Finding" in findings and len(findings) > 1:
        raise ValueError(f"NIH findings '{text}' contradict themselves: 'No Finding' beside another finding")
    positive = {NIH_TO_CHEXPERT[finding] for finding in findings}
    if include_opacity and set(findings) & set(NIH_OPACITY):
        positive.add("Lung Opacity")
    blank = NOT_IN_NIH if include_opacity else (*NOT_IN_NIH, "Lung Opacity")
    return np.array([1.0 if label in positive else np.nan if label in blank else 0.0 for label in CHEXPERT14])  # [14]
