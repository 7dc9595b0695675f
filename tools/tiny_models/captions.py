"""Captions and question-answer pairs from a study's labels and signs, in the words of the template teacher."""

from __future__ import annotations

import random

from chexreason.labels.schema import LabelSet
from chexreason.traces.sayable import FINDINGS, FRAMES, facts_of
from chexreason.types import Study

QUESTIONS = {
    "Support Devices": ("Is a support device in place?", "Is there a medical device?"),
    "Enlarged Cardiomediastinum": ("Is the mediastinum wide?", "Is there mediastinal widening?"),
    "Cardiomegaly": ("Is the heart enlarged?", "Is there cardiomegaly?"),
    "Lung Opacity": ("Is there a lung opacity?", "Is any opacity seen in the lungs?"),
    "Consolidation": ("Is there consolidation?", "Is a consolidation seen in the lungs?"),
    "Atelectasis": ("Is there atelectasis?", "Is there volume loss?"),
    "Edema": ("Is there pulmonary edema?", "Is there vascular congestion?"),
    "Pneumonia": ("Is there pneumonia?", "Is there a sign of infection?"),
    "Lung Lesion": ("Is there a lung nodule?", "Is there a lung lesion?"),
    "Pneumothorax": ("Is there a pneumothorax?", "Is there free pleural air?"),
    "Pleural Effusion": ("Is there a pleural effusion?", "Is there pleural fluid?"),
    "Pleural Other": ("Is there pleural thickening?", "Is there a pleural plaque?"),
    "Fracture": ("Is there a rib fracture?", "Is there a fracture?"),
    "No Finding": ("Is this radiograph normal?", "Is the chest free of disease?"),
}


def describe(study: Study, label_set: LabelSet, rng: random.Random) -> str:
    """A caption of two to five sentences: plain prose, no tags, no list of labels; every positive is named."""
    facts = facts_of(study, label_set)
    sentences = [*facts.affirmations(rng, n_full=2), *facts.denials(rng)[:1]]
    opener = rng.choice(FRAMES["openers"]).format(view=facts.view)
    if len(sentences) < 2 or rng.random() < 0.5:
        sentences = [opener, *(sentences or [rng.choice(FRAMES["review"])])]
    return " ".join(sentences)


def question(study: Study, label_set: LabelSet, rng: random.Random) -> tuple[str, str]:
    """A question about one judged finding and its answer; present and absent findings are asked for equally.

    Raises ValueError where the study judges no label.
    """
    facts = facts_of(study, label_set)
    groups = [group for group in (facts.positive, facts.negative) if group]
    if not groups:
        raise ValueError(f"study '{study.study_id}' judges no label of '{label_set.name}': nothing to ask")
    label = rng.choice(rng.choice(groups))
    finding = FINDINGS[label]
    asked = rng.choice(QUESTIONS[label])
    if label in facts.negative:
        denied = rng.choice(finding.absent)
        return asked, rng.choice(("No.", f"No. {denied}"))
    side = facts.slots[label]["at"].strip()
    if side and rng.random() < 0.3:
        return f"On which side is the {rng.choice(finding.nouns)}?", f"{side.capitalize()}."
    detail = f"Yes, {side}." if side else f"Yes. {facts.say(rng.choice(finding.signs), label)}"
    return asked, rng.choice(("Yes.", detail))
