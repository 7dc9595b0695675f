"""The YAML files build the rewards, and say the same numbers as their constructors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from chexreason.build.training import build_reward
from chexreason.labels.catalog import CHEXPERT14
from chexreason.rewards.base import score
from chexreason.rewards.nuanced import NuancedReward

CONF = Path(__file__).parents[2] / "conf"
PREVALENCE = dict.fromkeys(CHEXPERT14, 0.1)


def load(name: str) -> Any:
    return OmegaConf.load(CONF / "reward" / f"{name}.yaml")


def never() -> dict[str, float]:
    raise AssertionError("asked for the prevalence")


def test_prevalence_reaches_every_reward_that_prices_labels_and_is_asked_for_only_then() -> None:
    mix, hard = build_reward(load("mix"), lambda: {"Edema": 0.2}), build_reward(load("hard"), never)
    assert mix.rewards["nuanced"].false_positive_cost == {"Edema": 18.0}
    assert hard.weights == {"jaccard": 1.0, "length_penalty": 1.0}
    given = OmegaConf.merge(load("nuanced"), {"prevalence": {"Edema": 0.1}, "weights": {"collapse": 0}})
    nuanced = build_reward(given, never)
    assert isinstance(nuanced, NuancedReward)
    assert nuanced.false_positive_cost == {"Edema": 14.0}
    priced = ("exact", "partial", "false_positive", "format")
    assert nuanced.weights == dict.fromkeys(priced, 1.0) | {"collapse": 0.0, "jaccard": 0.0}
    assert type(nuanced.weights) is dict


@pytest.mark.parametrize(
    "node",
    [load("hard"), load("nuanced"), load("nuanced").collapse, load("macro_f1"), load("balanced")],
    ids=["hard", "nuanced", "window", "macro_f1", "balanced"],
)
def test_numbers_agree_with_the_constructor(node: Any) -> None:
    apart = ("prevalence", "weights", "collapse")
    parameters = inspect.signature(get_class(node["_target_"])).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items() if key not in apart}
    assert {key: value for key, value in node.items() if not key.startswith("_") and key not in apart} == defaults


def test_the_example_of_a_mix_pays_as_it_says(study: Callable, answer: Callable) -> None:
    reward = build_reward(load("mix"), lambda: PREVALENCE)
    assert reward.weights["hard/jaccard"] == 1.0
    assert reward.weights["hard/length_penalty"] == reward.weights["nuanced/exact"] == 0.0
    total, _ = score(reward, [answer("Edema", "Fracture", n_tokens=9)], [study("Edema")], CHEXPERT14)
    assert total.item() == pytest.approx(0.5 - 0.002 * 14 + 0.1)


def test_the_lab_looks_at_every_reward_there_is() -> None:
    named = [entry for entry in OmegaConf.load(CONF / "rewards.yaml").defaults if OmegaConf.is_config(entry)]
    shown = {value for entry in named for key, value in entry.items() if "reward@" in str(key)}
    assert shown == {path.stem for path in (CONF / "reward").glob("*.yaml")}
