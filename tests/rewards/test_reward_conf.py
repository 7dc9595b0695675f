"""The YAML files build the classes, and say the same numbers as their constructors."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from chexreason.rewards.hard import HardReward
from chexreason.rewards.nuanced import NuancedReward

CONF = Path(__file__).parents[2] / "conf" / "reward"


def load(name: str) -> Any:
    return OmegaConf.load(CONF / f"{name}.yaml")


def test_they_build() -> None:
    assert isinstance(instantiate(load("hard")), HardReward)
    nuanced = instantiate(load("nuanced"), prevalence={"Edema": 0.1}, weights={"collapse": 0})
    assert isinstance(nuanced, NuancedReward)
    assert nuanced.false_positive_cost == {"Edema": 14.0}
    assert nuanced.weights == dict.fromkeys(("exact", "partial", "false_positive", "format"), 1.0) | {
        "collapse": 0.0,
        "jaccard": 0.0,
    }
    assert type(nuanced.weights) is dict


@pytest.mark.parametrize("name", ["hard", "nuanced"])
def test_numbers_agree_with_the_constructor(name: str) -> None:
    nodes = [load(name)]
    for node in nodes:
        defaults = {
            key: parameter.default
            for key, parameter in inspect.signature(get_class(node["_target_"])).parameters.items()
            if key not in ("prevalence", "weights", "collapse")
        }
        given = {key: value for key, value in node.items() if not key.startswith("_") and key != "weights"}
        nodes += [given.pop(key) for key in list(given) if key == "collapse"]
        assert given == defaults
    assert len(nodes) == (2 if name == "nuanced" else 1)
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")
