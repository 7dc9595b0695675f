"""A synthetic study: random answers of two arms to two hospitals, no model involved."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.types import Prediction

ArmMaker = Callable[..., list[Prediction]]


@pytest.fixture
def make_arm() -> ArmMaker:
    """``make_arm(accuracy, n=20)``: predictions at phantom_a and phantom_b; the truth is the same for every arm."""

    def make(accuracy: float, n: int = 20, fail_every: int = 0, text: str = "<think>x</think>") -> list[Prediction]:
        truth_source, answer_source = random.Random(1), random.Random(accuracy)
        predictions = []
        for dataset, labelled in (("phantom_a", CHEXPERT14.labels), ("phantom_b", NIH9.labels)):
            for i in range(n):
                truth = tuple(label for label in labelled if truth_source.random() < 0.3)
                right = {label: answer_source.random() < accuracy for label in CHEXPERT14}
                predicted = tuple(label for label in CHEXPERT14 if (label in truth) == right[label])
                broken = "no_solution" if fail_every and i % fail_every == 0 else None
                study, patient = f"{dataset}:s{i}", f"{dataset}:p{i // 2}"
                answer = () if broken else predicted
                predictions.append(Prediction(study, patient, dataset, text, answer, truth, labelled, broken, 12))
        return predictions

    return make
