"""Phrase bank: the words around the findings. Data only; nothing here claims or denies a finding, a side or a quality.

``{view}`` is "PA " / "AP " / "" (with its space), ``{names}`` a list of noun phrases.
"""

from __future__ import annotations

# Head to toe, as a radiologist reads: every text names the findings in this order, whatever the label set's order.
READING_ORDER = (
    "Support Devices",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Consolidation",
    "Atelectasis",
    "Edema",
    "Pneumonia",
    "Lung Lesion",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "No Finding",
)

# A child finding makes its parent true or beside the point: the parent is not denied next to it.
PARENT_LABEL = {
    "Consolidation": "Lung Opacity",
    "Atelectasis": "Lung Opacity",
    "Edema": "Lung Opacity",
    "Pneumonia": "Lung Opacity",
    "Lung Lesion": "Lung Opacity",
    "Cardiomegaly": "Enlarged Cardiomediastinum",
}

OPENERS = (
    "This is a frontal {view}chest radiograph.",
    "A frontal {view}view of the chest is shown.",
    "I read this frontal {view}chest image from the center outward.",
    "On this frontal {view}radiograph I look at the chest region by region.",
    "The image is a frontal {view}view of the chest.",
)

REVIEW = (
    "The heart, lungs, pleura and bones are reviewed in turn.",
    "I compare the two halves of the chest.",
    "I trace the edges of the heart and of the diaphragm.",
    "I follow the ribs from the spine outward.",
    "The apices and the bases are checked again.",
    "Each region is read against what is expected.",
    "I look behind the heart and below the diaphragm.",
    "I weigh what is visible before I conclude.",
)

NARRATIVE_OPENERS = (
    "Looking at this frontal {view}chest radiograph as a whole, I start from the center and move outward.",
    "My first look at this frontal {view}image takes in the whole chest before any detail.",
    "This frontal {view}chest radiograph is read as one story, from the heart to the chest wall.",
    "I begin with an overall look at the frontal {view}image and then gather the evidence.",
)

CONNECTIVES = ("In addition, ", "Also, ", "Beside this, ", "Further, ", "At the same time, ")

NEGATIVE_FRAMES = ("There is no {nouns}.", "No {nouns} is seen.", "I see no {nouns}.", "No evidence of {nouns}.")

MORE_FRAMES = ("There is also {names}.", "The image also shows {names}.", "I also see {names}.")

CONCLUSIONS = (
    "Overall, the image shows {names}.",
    "In summary, there is {names}.",
    "My reading is {names}.",
    "I conclude that there is {names}.",
)

NARRATIVE_CONCLUSIONS = (
    "Taken together, the evidence supports {names}.",
    "Adding up these signs, the reading that fits best is {names}.",
    "All in all, the image is best explained by {names}.",
    "Weighing the evidence, I conclude that there is {names}.",
)

# The checklist of prompt reasoning_a: the heading of each step and the labels it decides.
CHECKLIST: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Quality", ()),
    ("Lines", ("Support Devices",)),
    ("Mediastinum", ("Enlarged Cardiomediastinum",)),
    ("Heart", ("Cardiomegaly",)),
    ("Volumes", ("Atelectasis",)),
    ("Airspaces", ("Lung Opacity", "Consolidation")),
    ("Vessels", ("Edema",)),
    ("Inflammation", ("Pneumonia",)),
    ("Focal shadows", ("Lung Lesion",)),
    ("Pleura", ("Pneumothorax", "Pleural Effusion", "Pleural Other")),
    ("Bones", ("Fracture",)),
    ("Synthesis", ()),
)

QUALITY = ("frontal {view}view, readable", "frontal {view}view of the chest", "frontal {view}image, fit to read")
UNJUDGED = ("reviewed", "checked", "looked at")
