"""Phantom hospitals: procedurally rendered chest radiographs whose every sign, and every shift, is known."""

from chexreason.data.sources.phantom.institution import Institution, Labelling, Rendering, institution, raw_labels
from chexreason.data.sources.phantom.patient import Patient, PhantomStudy, sample_patient
from chexreason.data.sources.phantom.render import render, sample_study
from chexreason.data.sources.phantom.source import PhantomSource
from chexreason.data.sources.phantom.stream import item, stream, truth

__all__ = [
    "Institution",
    "Labelling",
    "Patient",
    "PhantomSource",
    "PhantomStudy",
    "Rendering",
    "institution",
    "item",
    "raw_labels",
    "render",
    "sample_patient",
    "sample_study",
    "stream",
    "truth",
]
