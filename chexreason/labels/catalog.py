"""The label sets of the paper (section on data), published counts, and studies restricted to another label set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chexreason.labels.schema import LabelSet
from chexreason.types import Study

CHEXPERT14 = LabelSet(
    "chexpert14",
    (
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Enlarged Cardiomediastinum",
        "Fracture",
        "Lung Lesion",
        "Lung Opacity",
        "No Finding",
        "Pleural Effusion",
        "Pleural Other",
        "Pneumonia",
        "Pneumothorax",
        "Support Devices",
    ),
)

NIH9 = LabelSet(
    "nih9",
    (
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Lung Lesion",
        "No Finding",
        "Pleural Other",
        "Pneumonia",
        "Pneumothorax",
    ),
)

# CheXpert's hierarchy of observations: a child that is present makes its parent true.
PARENT_OF = {
    "Atelectasis": "Lung Opacity",
    "Consolidation": "Lung Opacity",
    "Edema": "Lung Opacity",
    "Lung Lesion": "Lung Opacity",
    "Pneumonia": "Lung Opacity",
    "Cardiomegaly": "Enlarged Cardiomediastinum",
}

LABEL_SETS = {s.name: s for s in (CHEXPERT14, NIH9)}

# Positives among the 500 studies of CheXpert's test set, as published with it (Irvin et al. 2019; Saporta et al. 2022).
CHEXPERT_STUDIES = 500
CHEXPERT_TEST = {
    "No Finding": 62,
    "Enlarged Cardiomediastinum": 253,
    "Cardiomegaly": 151,
    "Lung Opacity": 264,
    "Lung Lesion": 8,
    "Edema": 78,
    "Consolidation": 29,
    "Pneumonia": 11,
    "Atelectasis": 153,
    "Pneumothorax": 9,
    "Pleural Effusion": 104,
    "Pleural Other": 4,
    "Fracture": 5,
    "Support Devices": 261,
}


def label_set(name: str) -> LabelSet:
    """The label set called ``name``; raises KeyError listing the known ones."""
    if name not in LABEL_SETS:
        raise KeyError(f"unknown label set '{name}'; known: {', '.join(LABEL_SETS)}")
    return LABEL_SETS[name]


def restrict(studies: Sequence[Study], own: LabelSet, list_name: str | None) -> list[Study]:
    """Copies of ``studies``, read with the label set ``own``, masked outside the label set called ``list_name``.

    None keeps every label. Raises KeyError on an unknown list.
    """
    allowed = own.labels if list_name is None else label_set(list_name).labels
    keep = [label in allowed for label in own]  # [L]
    return [
        replace(
            study,
            target=tuple(hot * on for hot, on in zip(study.target, keep, strict=True)),
            mask=tuple(judged and on for judged, on in zip(study.mask, keep, strict=True)),
        )
        for study in studies
    ]
