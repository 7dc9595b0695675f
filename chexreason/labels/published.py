"""Counts of positives that were published with a data set: what constant answers earn on it needs nothing else."""

from __future__ import annotations

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
