"""Who draws a rollout's completions: the policy itself on a shared prefix, or another engine behind the same call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chexreason.data.batches import Batch
from chexreason.data.encoded import EncodedPrompts
from chexreason.policy.generate import Sampled, Sampling, sample
from chexreason.policy.policy import Policy


class Engine(Protocol):
    """Draws ``group_size`` completions of each study of ``batch``, whose prompts are ``prompts``, images encoded.

    ``keys`` [B * G] seed the rows: a completion depends on its own key alone. Returns what ``sample`` returns.
    """

    def draw(
        self,
        policy: Policy,
        batch: Batch,
        prompts: EncodedPrompts,
        sampling: Sampling,
        *,
        group_size: int,
        keys: Sequence[tuple[object, ...]],
    ) -> Sampled: ...


class SharedPrefixEngine:
    """The policy's own weights; image and prompt run once a study."""

    def draw(
        self,
        policy: Policy,
        batch: Batch,
        prompts: EncodedPrompts,
        sampling: Sampling,
        *,
        group_size: int,
        keys: Sequence[tuple[object, ...]],
    ) -> Sampled:
        """Sample from ``prompts``; the images of ``batch`` are in them already."""
        return sample(policy, prompts, sampling, group_size=group_size, keys=keys)


SHARED_PREFIX = SharedPrefixEngine()  # keeps nothing between rollouts, so that one serves all
