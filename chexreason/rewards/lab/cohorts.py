"""Studies to test a reward on that need no file: the phantoms' labels without images, and published counts."""

from __future__ import annotations

import numpy as np
import torch

from chexreason.labels.catalog import CHEXPERT_STUDIES, CHEXPERT_TEST
from chexreason.labels.schema import LabelSet
from chexreason.phantom.institution import raw_labels
from chexreason.phantom.source import PhantomSource
from chexreason.rewards.lab.answers import study_of
from chexreason.types import Study


def phantom_cohort(label_set: LabelSet, n: int = 480, seed: int = 0) -> list[Study]:
    """The labels of the first ``n`` studies the default phantom data trains GRPO on; those without any are left out.

    Equal to ``data=phantom`` prepared with the same seed, "positives_only" as there; no film is rendered.
    """
    source = PhantomSource("phantom_a", "a", n={"rl": n}, seed=seed)
    found = []
    for _, patient_id, study_id, phantom in source.studies():
        marks = raw_labels(phantom, source.institution.labelling, np.random.default_rng([phantom.seed, 99]))
        positive = [label for label in label_set if marks[label] == 1.0]
        if positive:
            found.append(study_of(study_id, patient_id, source.name, positive, label_set, label_set))
    return found


def chexpert_cohort(label_set: LabelSet, seed: int = 0) -> list[Study]:
    """500 made-up studies with exactly the positives published for CheXpert's test set, label by label.

    Which labels occur together was not published: here they fall independently, except that "No Finding" goes with
    nothing but Support Devices. Raises KeyError on a label without a published count.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = CHEXPERT_TEST["No Finding"]
    chosen: list[list[str]] = [[] for _ in range(CHEXPERT_STUDIES)]
    for label in label_set:
        if label not in CHEXPERT_TEST:
            raise KeyError(f"CheXpert's test set has no count of '{label}', but of: {', '.join(CHEXPERT_TEST)}")
        # Studies 0..61 are the normal ones.
        first, last = {"No Finding": (0, normal), "Support Devices": (0, CHEXPERT_STUDIES)}.get(
            label, (normal, CHEXPERT_STUDIES)
        )
        for i in (first + torch.randperm(last - first, generator=generator))[: CHEXPERT_TEST[label]].tolist():
            chosen[i].append(label)
    named = [(f"chexpert-{i}", labels) for i, labels in enumerate(chosen)]
    return [study_of(name, name, "chexpert", labels, label_set, label_set) for name, labels in named]
