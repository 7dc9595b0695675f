"""Phantom hospitals: procedurally rendered chest radiographs whose every sign, and every shift, is known."""

from chexreason.phantom.institution import Institution, Labelling, Rendering, institution, raw_labels
from chexreason.phantom.patient import Patient, PhantomStudy, sample_patient
from chexreason.phantom.render import render_film, sample_study
from chexreason.phantom.source import PhantomSource

__all__ = [
    "Institution",
    "Labelling",
    "Patient",
    "PhantomSource",
    "PhantomStudy",
    "Rendering",
    "institution",
    "raw_labels",
    "render_film",
    "sample_patient",
    "sample_study",
]
