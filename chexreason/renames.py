"""What earlier versions called things: applied to every stored config before it is compared or hashed.

A run directory keeps the config that made it. Code moves and keys are renamed, but the run stays the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Where the class or function that a config names was, and where it is.
MOVED = {
    "chexreason.data.sources.phantom.PhantomSource": "chexreason.phantom.PhantomSource",
    "chexreason.modules.grpo.GRPOModule": "chexreason.grpo.module.GRPOModule",
    "chexreason.modules.schedule.scheduled": "chexreason.training.policy_module.scheduled",
    "chexreason.modules.sft.SFTModule": "chexreason.training.sft.SFTModule",
    "chexreason.policy.engine.SharedPrefixEngine": "chexreason.model.generate.SharedPrefixEngine",
    "chexreason.policy.generate.Sampling": "chexreason.model.generate.Sampling",
    "chexreason.policy.load.load_policy": "chexreason.model.load.load_policy",
    "chexreason.policy.vllm_engine.VllmEngine": "chexreason.model.vllm_engine.VllmEngine",
    "chexreason.traces.gemini_teacher.GeminiTeacher": "chexreason.traces.openai_teacher.OpenAITeacher",
    "chexreason.traces.offline_teacher.OfflineTeacher": "chexreason.traces.template.OfflineTeacher",
}
# Dotted keys: the old name and the new one; keys newer than some stored runs and what their absence means; keys that
# are gone and what a user does now.
RENAMED: dict[str, str] = {}
ADDED: dict[str, Any] = {"phase.holdout": 0, "data.sets.mimic.select.test_split": None}
REMOVED: dict[str, str] = {"rollout.adapters": "the policy hands its earlier adapters over itself; leave it out"}


def current(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings (dotted key to value) in today's names: moved targets, renamed, added and removed keys."""
    named = {RENAMED.get(key, key): value for key, value in settings.items() if key not in REMOVED}
    moved = {key: MOVED.get(value, value) if isinstance(value, str) else value for key, value in named.items()}
    return ADDED | moved


def old_names(settings: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each name in a user's settings (dotted key to value) that only an earlier version knew."""
    for key, value in settings.items():
        if key in RENAMED:
            yield f"{key} is now called {RENAMED[key]}: write {RENAMED[key]}={value}"
        if key in REMOVED:
            yield f"{key} was removed: {REMOVED[key]}"
        if isinstance(value, str) and value in MOVED:
            yield f"{key}={value} has moved: write {MOVED[value]}"
