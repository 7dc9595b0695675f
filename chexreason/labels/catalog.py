"""The label sets the paper uses (section on data), and sets read with one of them restricted to another."""

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
