"""When a stored config and today's are one run: what earlier versions called things, and what a phase does not read.

A run directory keeps the config that made it. Code moves and keys are renamed, but the run stays the same run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
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
ADDED: dict[str, Any] = {"phase.holdout": 0, "phase.tuning": 0, "model.family": None, "reasoning": "own"}
ADDED["data.sets.mimic.select.test_split"] = None
# Those of the phantoms.
ADDED |= {"data.sets.phantom_b.source.dose": 1.0}
ADDED |= dict.fromkeys(("data.label_list", "data.sets.phantom_a.label_list", "data.sets.phantom_b.label_list"))
# Those of `prepare` for a csv without a data config.
ADDED |= dict.fromkeys(("table", "root", "policy", "split", "split_column", "vendor", "path_column", "patient_column"))
ADDED |= dict.fromkeys(("images", "label_columns", "view_column", "age_column", "sex_column"))
SHIFTS_OF = ("data.shift", "data.sets.phantom_b.source.shift")  # their value "labels" is now called "annotation"
REMOVED: dict[str, str] = {"rollout.adapters": "the policy hands its earlier adapters over itself; leave it out"}
REMOVED["fit_patients"] = "a change is split at matched call rates, for which nothing is fitted; leave it out"
# Settings that may change between a run and its continuation: they do not change what is computed.
FREE = ("paths", "logger", "callbacks.progress", "run_dir", "num_workers", "restart", "requeue")
# Nor does what says where the data of a set may go.
_DECLARED = re.compile(r"allow_export|data\.sets\.[^.]+\.public(_names)?")
# Settings, with all below them, that a phase of training or a command never looks at.
_TRAINING = ("data.test", "data.attributions")
_SCORING = ("data.val", "data.home", "data.attributions", "data.allow_overlap", "data.credentialed")
UNREAD = {
    "sft": (*_TRAINING, "reward", "objective", "rollout", "callbacks.collapse"),
    "grpo": _TRAINING,
    "evaluate": (*_SCORING, "budget", "limits"),
    "scores": (*_SCORING, "data.test", "limit"),
    "blend": ("data", "model", "prompt", "labels", "split", "limit", "batch_size", "max_new_tokens"),
}


def current(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings (dotted key to value) in today's names: moved targets, renamed, added and removed keys."""
    named = {RENAMED.get(key, key): value for key, value in settings.items() if key not in REMOVED}
    moved = {key: MOVED.get(value, value) if isinstance(value, str) else value for key, value in named.items()}
    return ADDED | {key: "annotation" if key in SHIFTS_OF and moved[key] == "labels" else moved[key] for key in moved}


def as_before(key: str, value: Any) -> bool:
    """Whether ``value`` of a key of ``ADDED`` means what its absence meant; the package's own families were all.

    One that takes the value of another key of ``ADDED`` does: that key says what it means.
    """
    own = key == "model.family" and str(value).startswith("chexreason.model.family.")
    return bool(own or value == ADDED[key] or value in [f"${{{other}}}" for other in ADDED])


def old_names(settings: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each name in a user's settings (dotted key to value) that only an earlier version knew."""
    for key, value in settings.items():
        if key in RENAMED:
            yield f"{key} is now called {RENAMED[key]}: write {RENAMED[key]}={value}"
        if key in REMOVED:
            yield f"{key} was removed: {REMOVED[key]}"
        if isinstance(value, str) and value in MOVED:
            yield f"{key}={value} has moved: write {MOVED[value]}"


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config computes, as dotted keys in today's names: without what may change when a run is continued.

    Paths under ``paths.data`` and ``paths.out`` begin with these names, so that a study or its data that were moved, or
    are spelled in another way, are the same. A key that was added later is there only where it has another meaning than
    before.
    """
    paths = config.get("paths") or {}
    places = [(os.path.normpath(paths[k]), f"${{paths.{k}}}") for k in ("data", "out") if isinstance(paths.get(k), str)]
    given = {k: value for k, value in current(flat(config)).items() if k not in ADDED or not as_before(k, value)}
    kept = [k for k in given if not below(k, FREE) and not _DECLARED.fullmatch(k)]
    return {k: _placed(given[k], places) for k in kept}


def _placed(value: Any, places: Sequence[tuple[str, str]]) -> Any:
    if isinstance(value, list):
        return [_placed(item, places) for item in value]
    if isinstance(value, dict):
        return {key: _placed(item, places) for key, item in value.items()}
    path = os.path.normpath(value) if isinstance(value, str) else ""
    names = [name + path[len(place) :] for place, name in places if path == place or path.startswith(place + os.sep)]
    return names[0] if names else value


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted key to value."""
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    items: dict[str, Any] = {}
    for key, value in node.items():
        items.update(flat(value, f"{prefix}{key}."))
    return items


def below(key: str, names: Sequence[str]) -> bool:
    """True where a dotted key is one of ``names`` or lies below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` of each setting in which two configs differ and that the phase of ``now`` reads."""
    old, new = settings_read(before, phase := _phase(now)), settings_read(now, phase)
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, ADDED.get(key))!r} -> {new.get(key, ADDED.get(key))!r}" for key in keys]


def settings_read(config: Mapping[str, Any], phase: str | None = None) -> dict[str, Any]:
    """The ``settings`` of a config that ``phase``, its own unless given, reads."""
    unread = UNREAD[phase or _phase(config)]
    return {key: value for key, value in settings(config).items() if not below(key, unread)}


def _phase(config: Mapping[str, Any]) -> str:
    """The phase of training, or the command, that a config is for."""
    if "phase" in config:
        return "grpo" if config["phase"].get("name") == "grpo" else "sft"
    return "blend" if "alpha" in config else "scores" if "predictions" in config else "evaluate"
