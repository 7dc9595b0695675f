"""Mixes of rewards: weights, memory, and the YAML that spells one out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from chexreason.labels.catalog import CHEXPERT14
from chexreason.rewards.base import score
from chexreason.rewards.collapse import CollapseWindow, dominance
from chexreason.rewards.format import FormatReward
from chexreason.rewards.hard import HardReward
from chexreason.rewards.mix import MixReward, told_prevalence
from chexreason.rewards.nuanced import NuancedReward

CONF = Path(__file__).parents[2] / "conf"
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


def test_memory_goes_through_a_checkpoint(study: Callable, answer: Callable) -> None:
    rows, studies = [answer("Edema")] * 9, [study("Edema")] * 9
    straight, resumed = mixed(), mixed()
    score(straight, rows, studies, CHEXPERT14)
    state = json.loads(json.dumps(straight.state_dict()))
    assert list(state) == ["nuanced"]
    resumed.load_state_dict(state)
    expected, got = (score(r, rows, studies, CHEXPERT14)[0].tolist() for r in (straight, resumed))
    assert got == expected
    assert expected != score(mixed(), rows, studies, CHEXPERT14)[0].tolist()


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


def test_prevalence_reaches_every_reward_that_prices_labels_and_is_asked_for_only_then() -> None:
    def never() -> dict[str, float]:
        raise AssertionError("asked for the prevalence")

    node = OmegaConf.to_container(OmegaConf.load(CONF / "reward" / "mix.yaml"))
    told = told_prevalence(node, lambda: {"Edema": 0.2})
    assert told["rewards"]["nuanced"]["prevalence"] == {"Edema": 0.2}
    assert "prevalence" not in node["rewards"]["nuanced"]
    assert told_prevalence(told, never) == told
    assert told_prevalence({"_target_": "chexreason.rewards.hard.HardReward"}, never)


def test_the_example_builds_and_pays_as_it_says(study: Callable, answer: Callable) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF / "reward" / "mix.yaml"))
    reward = instantiate(told_prevalence(node, lambda: PREVALENCE))
    assert reward.weights["hard/jaccard"] == 1.0
    assert reward.weights["hard/length_penalty"] == reward.weights["nuanced/exact"] == 0.0
    total, _ = score(reward, [answer("Edema", "Fracture", n_tokens=9)], [study("Edema")], CHEXPERT14)
    assert total.item() == pytest.approx(0.5 - 0.002 * 14 + 0.1)


def test_the_lab_looks_at_every_reward_there_is() -> None:
    named = [entry for entry in OmegaConf.load(CONF / "rewards.yaml").defaults if OmegaConf.is_config(entry)]
    shown = {value for entry in named for key, value in entry.items() if "reward@" in str(key)}
    assert shown == {path.stem for path in (CONF / "reward").glob("*.yaml")}


def test_dominance_counts_an_answer_once_a_label() -> None:
    assert dominance([["Edema", "Edema"], ["Edema", "Fracture"], [], ["Fracture"]]) == 0.5
    assert dominance([]) == dominance([[]]) == 0.0
