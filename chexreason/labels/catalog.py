"""The label sets the paper uses, and the cross-walk from NIH's names to CheXpert's (paper, section on data)."""

from __future__ import annotations

from chexreason.labels.schema import LabelSet

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

LABEL_SETS = {s.name: s for s in (CHEXPERT14, NIH9)}


def label_set(name: str) -> LabelSet:
    """The label set called ``name``; raises KeyError listing the known ones."""
    if name not in LABEL_SETS:
        raise KeyError(f"unknown label set '{name}'; known: {', '.join(LABEL_SETS)}")
    return LABEL_SETS[name]
