"""A data config of one's own: what it may leave out, and its missing or misspelt keys before any work is done."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from chexreason.build.data import set_policy
from chexreason.confdir import confdir
from chexreason.errors import did_you_mean
from chexreason.labels.catalog import label_set
from chexreason.renames import MOVED

_OF_SETS = ("home", "val", "test", "credentialed", "allow_overlap", "agreement")
_KEYS = (*_OF_SETS, "name", "folder", "attributions", "allow_export", "seed", "sets")
_OF_A_SET = ("source", "policy", "public", "public_names", "label_list", "select")


def complete_data(cfg: DictConfig) -> None:
    """Fills in what ``cfg.data`` leaves out; raises ValueError with every key at fault and what to write.

    Home is the first set, val is the home set, test is all sets; a source has the name of its set. A key that is not
    ours is one of the user's own where a value uses it, as in ``${data.my_root}``.
    """
    data, sets = cfg.data, cfg.data.get("sets")
    if not isinstance(sets, DictConfig) or not sets or not all(isinstance(sets[name], DictConfig) for name in sets):
        raise ValueError("data.sets: say the source and the policy of at least one set, by its name")
    own = {
        "folder": "${paths.data}/${data.name}",
        "home": next(iter(sets)),
        "val": ["${data.home}"],
        "test": list(sets),
    }
    with open_dict(cfg):
        for key, value in {**own, "attributions": []}.items():
            if _absent(data, key):
                data[key] = value
        for name, node in sets.items():
            if isinstance(node.get("source"), DictConfig) and _absent(node.source, "name"):
                node.source.name = name
    shipped = Path(confdir(), "data", f"{data.get('name')}.yaml")  # whose keys may be those of a set that was left out
    texts = str(OmegaConf.to_container(cfg)), shipped.read_text(encoding="utf-8") if shipped.is_file() else ""
    used = [key for text in texts for key in re.findall(r"\$\{data\.(\w+)", text)]
    faults = [*_unknown("data", data, (*_KEYS, *used)), *(fault for name in sets for fault in _of_set(cfg, name))]
    faults += ["data.name is missing: say what the folders of this data are called"] * _absent(data, "name")
    for key in _OF_SETS:
        named = data.get(key)
        named = OmegaConf.to_container(named, resolve=True) if OmegaConf.is_config(named) else named
        lost = [word for word in _names(named) if word not in sets]
        faults += [f"data.{key}: there is no set '{word}'{did_you_mean(word, sets)}" for word in lost]
    if faults:
        raise ValueError("the data config has faults; nothing was done\n  " + "\n  ".join(faults))


def _names(named: Any) -> list[Any]:
    """The sets in a name, a list of names or a list of pairs."""
    return [one for item in named for one in _names(item)] if isinstance(named, list) else [named] * (named is not None)


def _absent(node: DictConfig, key: str) -> bool:
    return key not in node or OmegaConf.is_missing(node, key)


def _unknown(at: str, node: DictConfig, known: Collection[str]) -> list[str]:
    keys = [str(key) for key in node if key not in known and not str(key).startswith("_")]
    return [f"{at}.{key} is no setting{did_you_mean(key, known)}" for key in keys]


def _of_set(cfg: DictConfig, name: str) -> Iterator[str]:
    at, node = f"data.sets.{name}", cfg.data.sets[name]
    yield from _unknown(at, node, _OF_A_SET)
    yield from _misfits(f"{at}.source", node.get("source"))
    if node.get("select") is not None:
        yield from _misfits(f"{at}.select", node.select)
    if node.get("public") not in (None, True, False):
        yield f"{at}.public={node.public!r}: say true or false"
    if _absent(node, "policy"):
        yield f"{at}.policy is missing: what does a blank mean? ignore (nobody asked) or positives_only (absent)"
        return
    try:
        set_policy(cfg, name)
        label_set(node.get("label_list") or "chexpert14")
        re.compile(node.get("public_names") or "")
    except (KeyError, ValueError, re.error) as error:
        yield f"{at}: {error.args[0]}"


def _misfits(at: str, node: Any) -> Iterator[str]:
    """What keeps the class or function that ``node`` names from being called with the rest of it."""
    if not isinstance(node, DictConfig) or _absent(node, "_target_"):
        yield f"{at} is missing: say _target_, the class that reads it, and its settings (docs/DATA.md)"
        return
    if (target := node["_target_"]) in MOVED:
        return  # whoever builds it says its new name
    try:
        found = signature(resolve_name(target)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        texts = " ".join(path.read_text(encoding="utf-8") for path in Path(confdir(), "data").glob("*.yaml"))
        meant = did_you_mean(target, re.findall(r"_target_: ([\w.]+)", texts))
        yield f"{at}: there is no {target}{meant}"
        return
    kinds = {parameter.kind for parameter in found.values()}
    yield from _unknown(at, node, node if Parameter.VAR_KEYWORD in kinds else found)
    needed = [key for key, one in found.items() if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    yield from (f"{at}.{key} is missing: {target} needs it" for key in needed if _absent(node, key))
    for key, part in (node.get("hospitals") or {}).items():
        yield from _misfits(f"{at}.hospitals.{key}", part)
