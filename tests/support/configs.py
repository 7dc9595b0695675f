"""Configs composed as the commands compose them, and what of them no constructor takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from chexreason.confdir import confdir

# Of the model and of W&B's node, which their constructors never see.
READ_BY_THE_DOOR = {"eval_batch_size", "max_new_tokens", "completions", "media", "allow_export"}


def composed(config: str, *overrides: str) -> DictConfig:
    """What the command ``config`` would be given."""
    with initialize_config_dir(confdir(), version_base="1.3"):
        return compose(config, list(overrides))


def targets(node: object, at: str = "") -> Iterator[tuple[str, dict]]:
    """Every node that names what is built from it, with its place."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield at, node
        for key, value in node.items():
            yield from targets(value, f"{at}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from targets(value, f"{at}[{i}]")


def misfits(cfg: DictConfig) -> list[str]:
    """The nodes with a setting that their constructor does not take; raises where there is no such constructor."""
    found = []
    for at, node in targets(OmegaConf.to_container(cfg, resolve=True)):
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        given = {key for key in node if not key.startswith("_")}
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            found += [at] * bool(given - set(parameters) - READ_BY_THE_DOOR)
    return found
