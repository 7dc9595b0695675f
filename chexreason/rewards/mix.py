"""Several rewards as one: the weighted sum of their parts, each under its own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from chexreason.labels.schema import LabelSet
from chexreason.rewards.base import Reward, Stateful, named_weights
from chexreason.types import Completion, Study


class MixReward:
    """The sum of ``weights[name]`` times each of ``rewards``; weight 0 makes all parts of one metrics.

    The part ``jaccard`` of the reward called ``hard`` is the part ``hard/jaccard`` of the mix, its weight the product
    of the two. Every reward scores every completion; a reward with a memory therefore remembers at weight 0 too.
    Raises ValueError without a reward and on a weight for none of them.
    """

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float] | None = None) -> None:
        if not rewards:
            raise ValueError("a mix of no rewards: name at least one under rewards")
        self.rewards = dict(rewards)
        self.scale = named_weights("MixReward", tuple(rewards), weights)
        self.weights = {
            f"{name}/{part}": self.scale[name] * weight
            for name, reward in self.rewards.items()
            for part, weight in reward.weights.items()
        }

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
    ) -> dict[str, Tensor]:
        """The parts of all rewards, each [N], as ``<reward>/<part>``."""
        values = {}
        for name, reward in self.rewards.items():
            for part, column in reward(completions, studies, label_set).items():
                values[f"{name}/{part}"] = column
                self.weights.setdefault(f"{name}/{part}", self.scale[name])  # a part its reward gives no weight has 1
        return values

    def state_dict(self) -> dict[str, Any]:
        """What the rewards with a memory remember, by name."""
        return {name: reward.state_dict() for name, reward in self.rewards.items() if isinstance(reward, Stateful)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the memory of each reward; raises KeyError where a saved one is missing."""
        for name, reward in self.rewards.items():
            if isinstance(reward, Stateful):
                reward.load_state_dict(state[name])
