"""The named objectives of conf/objective as plain values, without Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from chexreason.grpo.objective import ObjectiveSpec

FOLDER = Path(__file__).parents[2] / "conf" / "objective"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def parts_of(name: str) -> dict[str, Any]:
    """The parts of one preset: its own, over those of the preset that it changes."""
    own = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    for base in own.pop("defaults", ()):
        own = parts_of(base) | own
    return own


def plain(**changes: Any) -> ObjectiveSpec:
    """The clipped objective without any of the parts a preset may add, with some of its parts changed."""
    fields = {"name": "test", "normaliser": "constant", "scale": "none", "clip_low": 0.2, "clip_high": 0.2}
    fields |= {"kl_beta": 0.0, "kl_estimator": "k3", "ratio_level": "token", "kl_ratio_factor": False}
    return ObjectiveSpec(**(fields | {"updates_per_rollout": 2} | changes))


def preset(name: str, **changes: Any) -> ObjectiveSpec:
    """One preset, with some of its parts changed."""
    return ObjectiveSpec(**{key: value for key, value in (parts_of(name) | changes).items() if key != "_target_"})
