"""Mixes of rewards, and the reward for the format: weights and parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chexreason.labels.catalog import CHEXPERT14
from chexreason.rewards.base import score
from chexreason.rewards.collapse import CollapseWindow
from chexreason.rewards.format import FormatReward
from chexreason.rewards.hard import HardReward
from chexreason.rewards.mix import MixReward
from chexreason.rewards.nuanced import NuancedReward

PREVALENCE = dict.fromkeys(CHEXPERT14, 0.1)


def mixed(**weights: float) -> MixReward:
    rewards = {"hard": HardReward(), "nuanced": NuancedReward(PREVALENCE, CollapseWindow(size=10))}
    return MixReward(rewards, weights)


def test_the_total_is_the_weighted_sum_of_the_totals(study: Callable, answer: Callable) -> None:
    rows, studies = [answer("Edema", n_tokens=9), answer("Fracture")], [study("Edema", "Pneumonia")] * 2
    alone = [score(reward, rows, studies, CHEXPERT14)[0] for reward in mixed().rewards.values()]
    total, parts = score(mixed(hard=2, nuanced=0.5), rows, studies, CHEXPERT14)
    torch.testing.assert_close(total, 2 * alone[0] + 0.5 * alone[1])
    assert list(parts)[:3] == ["hard/jaccard", "hard/length_penalty", "nuanced/exact"]
    assert parts["hard/length_penalty"].tolist() == pytest.approx([-0.1, 0])


def test_a_reward_of_weight_zero_is_a_metric_and_inner_weights_count(study: Callable, answer: Callable) -> None:
    rewards = {"hard": HardReward(weights={"length_penalty": 0.5}), "format": FormatReward()}
    total, parts = score(MixReward(rewards, {"format": 0}), [answer("Edema", n_tokens=9)], [study("Edema")], CHEXPERT14)
    assert total.item() == pytest.approx(0.95)
    assert parts["format/valid"].tolist() == [1.0]


def test_a_part_that_its_reward_gives_no_weight_has_weight_one(study: Callable, answer: Callable) -> None:
    class Bare:
        weights: dict[str, float] = {}  # noqa: RUF012

        def __call__(self, completions, studies, label_set):
            return {"a": torch.full((len(completions),), 2.0)}

    assert score(MixReward({"bare": Bare()}, {"bare": 3}), [answer()], [study()], CHEXPERT14)[0].item() == 6.0


def test_wrong_mixes_are_refused() -> None:
    with pytest.raises(ValueError, match="a mix of no rewards"):
        MixReward({})
    with pytest.raises(ValueError, match=r"no part \['nuance'\].*hard, nuanced"):
        mixed(nuance=1.0)
    with pytest.raises(ValueError, match="most=-1"):
        FormatReward(most=-1)


def test_format_by_hand(study: Callable, answer: Callable) -> None:
    rows = [
        answer("Edema"),
        answer("Edema", unknown=("Cat",), duplicates=("edema",), stray_blocks=1),
        answer("Edema", duplicates=("edema",) * 9),
        answer("Edema", unknown=("Cat",), broken="no_think"),
    ]
    total, parts = score(FormatReward(weights={"extras": 0.5}), rows, [study("Edema")] * 4, CHEXPERT14)
    assert parts["valid"].tolist() == [1, 1, 1, 0]
    assert parts["extras"].tolist() == [0, -3, -4, 0]
    assert total.tolist() == [1, -0.5, -1, 0]
