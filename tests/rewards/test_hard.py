from __future__ import annotations

from collections.abc import Callable

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.rewards.base import score
from chexreason.rewards.hard import HardReward
from chexreason.types import Completion, Study

LABELS = CHEXPERT14.labels


def total(reward: HardReward, completion: Completion, study: Study) -> float:
    return score(reward, [completion], [study], CHEXPERT14)[0].item()


def test_values_by_hand(study: Callable, answer: Callable) -> None:
    truth = study("Edema", "Pneumonia")
    rows = [
        answer("Edema", "Pneumonia"),  # 1
        answer("Edema", "Fracture"),  # 1/3
        answer("Edema", "Fracture", n_tokens=249),  # 1/3 - 0.1
        answer("Fracture", n_tokens=249),  # 0 - 0.1
        answer("Edema", "Pneumonia", n_tokens=250),  # 1: the limit itself is long enough
        answer("Edema", "Pneumonia", n_tokens=10, broken="no_solution"),  # 0
    ]
    values, parts = score(HardReward(), rows, [truth] * len(rows), CHEXPERT14)
    assert values.tolist() == pytest.approx([1, 1 / 3, 1 / 3 - 0.1, -0.1, 1, 0])
    assert parts["jaccard"].tolist() == pytest.approx([1, 1 / 3, 1 / 3, 0, 1, 0])
    assert parts["length_penalty"].tolist() == pytest.approx([0, 0, -0.1, -0.1, 0, 0])


def test_unknown_labels_are_ignored_or_count_as_false_positives(study: Callable, answer: Callable) -> None:
    completion = answer("Edema", unknown=("Cat", "Dog"))
    assert total(HardReward(), completion, study("Edema")) == 1.0
    assert total(HardReward(unknown="penalise"), completion, study("Edema")) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="unknown='drop'"):
        HardReward(unknown="drop")  # type: ignore[arg-type]


def test_nothing_true_and_nothing_predicted_agree(study: Callable, answer: Callable) -> None:
    assert total(HardReward(), answer(), study()) == 1.0
    assert total(HardReward(), answer(), study("Edema")) == 0.0


def test_trivial_answers_earn_little(study: Callable, answer: Callable) -> None:
    assert total(HardReward(), answer(*LABELS), study("Edema")) == pytest.approx(1 / 14)
    assert total(HardReward(), answer("No Finding"), study("Edema")) == 0.0
    assert total(HardReward(), answer("No Finding"), study("No Finding")) == 1.0


def test_an_empty_batch_has_empty_parts() -> None:
    values, parts = score(HardReward(), [], [], CHEXPERT14)
    assert values.shape == parts["jaccard"].shape == (0,)
