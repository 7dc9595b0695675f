from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.rewards.base import named_weights, score, scored_labels, set_jaccard
from chexreason.rewards.hard import HardReward


class FixedReward:
    """Returns given parts, whatever it is asked."""

    def __init__(self, parts: dict[str, Tensor], weights: Mapping[str, float] | None = None) -> None:
        self.parts = parts
        self.weights = weights or {}

    def __call__(
        self, completions: Sequence[object], studies: Sequence[object], label_set: object
    ) -> dict[str, Tensor]:
        return self.parts


def test_total_is_the_weighted_sum_and_a_metric_has_weight_zero(study: Callable, answer: Callable) -> None:
    parts = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, -20.0]), "metric": torch.tensor([5.0, 5.0])}
    reward = FixedReward(parts, {"b": 0.5, "metric": 0.0})
    total, named = score(reward, [answer(), answer()], [study(), study()], CHEXPERT14)
    assert total.tolist() == [6.0, -8.0]
    assert {name: part.tolist() for name, part in named.items()} == {"a": [1, 2], "b": [10, -20], "metric": [5, 5]}
    assert parts["b"].tolist() == [10.0, -20.0], "score changed its input"


def test_a_weight_for_no_part_names_the_parts(study: Callable, answer: Callable) -> None:
    with pytest.raises(ValueError, match=r"no part \['jacard'\].*jaccard, length_penalty"):
        HardReward(weights={"jacard": 1.0})
    with pytest.raises(ValueError, match=r"FixedReward has no part \['c'\].*parts: a"):
        score(FixedReward({"a": torch.zeros(1)}, {"c": 1.0}), [answer()], [study()], CHEXPERT14)
    assert named_weights("R", ("a", "b"), {"b": 2}) == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_refused_with_reward_part_study_and_text(
    study: Callable, answer: Callable, bad: float
) -> None:
    reward = FixedReward({"a": torch.zeros(2), "b": torch.tensor([0.0, bad])}, {"b": 0.0})
    rows = [answer("Edema", study_id=s) for s in ("s1", "s2")]
    with pytest.raises(ValueError, match=r"FixedReward gave -?(nan|inf) for part 'b' of study 's2'.*with Edema"):
        score(reward, rows, [study(study_id="s1"), study(study_id="s2")], CHEXPERT14)


@pytest.mark.parametrize("part", [torch.zeros(1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)])
def test_parts_of_the_wrong_kind_are_refused(study: Callable, answer: Callable, part: Tensor) -> None:
    with pytest.raises(ValueError, match=r"part 'a' as torch\.\w+ .*must be float \(2,\)"):
        score(FixedReward({"a": part}), [answer(), answer()], [study(), study()], CHEXPERT14)


def test_mispaired_rows_and_another_label_set_are_refused(study: Callable, answer: Callable) -> None:
    reward = FixedReward({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match="row 1 pairs a completion of 's2' with study 's1'"):
        score(reward, [answer(), answer(study_id="s2")], [study(), study()], CHEXPERT14)
    with pytest.raises(ValueError, match="2 completions for 1 studies"):
        score(reward, [answer(), answer()], [study()], CHEXPERT14)
    with pytest.raises(ValueError, match=r"'s1' has 14 targets .* 'nih9' has 9"):
        scored_labels(answer("Edema"), study("Edema"), NIH9)


def test_unlabelled_classes_leave_truth_and_prediction(study: Callable, answer: Callable) -> None:
    masked = study("Edema", "Fracture", unlabelled=("Fracture", "Support Devices"))
    truth, predicted = scored_labels(answer("Fracture", "Support Devices", "Edema", "Pneumonia"), masked, CHEXPERT14)
    assert truth == {"Edema"}
    assert predicted == {"Edema", "Pneumonia"}


def test_jaccard_by_hand() -> None:
    a, b = frozenset({"x", "y"}), frozenset({"y", "z"})
    assert set_jaccard(a, b) == pytest.approx(1 / 3)
    assert set_jaccard(a, b, n_unknown=1) == pytest.approx(1 / 4)
    assert set_jaccard(frozenset(), frozenset()) == 1.0
    assert set_jaccard(frozenset(), frozenset(), n_unknown=1) == 0.0
    assert set_jaccard(a, frozenset()) == set_jaccard(frozenset(), a) == 0.0
