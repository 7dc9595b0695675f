"""From the model half of a config to objects: the policy, and the card of its adapter."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import transformers
from omegaconf import DictConfig, OmegaConf

from chexreason.build.data import load_manifest, make, public_sets, set_policy
from chexreason.data.manifest import content_hash
from chexreason.labels.schema import LabelSet
from chexreason.model.adapters import CARD, read_card, trained_on
from chexreason.model.features import cache_films
from chexreason.model.policy import Policy
from chexreason.prompts import Prompt, render

# What libraries say on every start and nobody can act on, and why; real warnings stay.
_NO_NEWS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning against a newer torch
    r".*is_gradient_checkpointing.*",  # PEFT against a newer transformers
    r".*You have overridden `transfer_batch_to_device`.*",  # on purpose: batches are dataclasses
    r".*The checkpoint will contain the model state AFTER optimization.*",  # on purpose: it is where a run resumes
    r".*using ModelCheckpoint with manual optimization.*",
    r".*does not have many workers.*",  # the images are small; num_workers= is there
    r".*Checkpoint directory .* exists and is not empty.*",  # on purpose: that is a resume
    r".*`LightningDataModule` does not implement.*",
    r".*your dataloader is not resumable.*",  # it is: the data module keeps the epoch and the place in it
)


def build_policy(cfg: DictConfig) -> Policy:
    """The base model and ``cfg.adapters``, on the CPU; it reads films through the caches of ``cfg.paths``."""
    own = ("eval_batch_size", "max_new_tokens")
    node = OmegaConf.create({k: v for k, v in cfg.model.items() if k not in own})
    policy = make(node, adapters=list(cfg.adapters))
    return cache_films(policy, cfg.paths.image_cache, cfg.paths.feature_cache)


def adapter_card(cfg: DictConfig, prompt: Prompt, label_set: LabelSet) -> dict[str, object]:
    """What must be known to use an adapter: prompt, labels, policies, data, the sets that the best one is chosen on."""
    return {
        "phase": cfg.phase.name,
        "prompt": {"name": prompt.name, "text": render(prompt, label_set), "grammar": prompt.grammar},
        "labels": {"name": label_set.name, "order": list(label_set.labels)},
        "label_policies": {name: set_policy(cfg, name).declared for name in cfg.data.sets},
        "training_sets": _training_sets(cfg),
        "data": cfg.data.name,
        "seed": cfg.seed,
        "holdout": cfg.phase.get("holdout") or 0.0,
        "chosen_on": chosen_on(cfg),
        "tuning": cfg.phase.get("tuning") or 0.0,
    }


def _training_sets(cfg: DictConfig) -> list[dict[str, object]]:
    """The home set, whether it is declared public, and the sets that the weights it starts from learned from."""
    home, folders = cfg.data.home, [*cfg.adapters]
    folders += [cfg.model.source] if (Path(cfg.model.source) / CARD).is_file() else []
    data = content_hash(load_manifest(cfg, home).frame)[:16]
    own = {"set": home, "public": home in public_sets(cfg), "data_sha256": data}
    return [own, *(row for folder in folders for row in trained_on(folder))]


def chosen_on(cfg: DictConfig) -> list[str]:
    """The sets whose validation studies choose a run's best adapter; none where studies held back choose it."""
    held = bool(cfg.phase.get("holdout")) and cfg.phase.monitor in ("val/loss", "val/token_accuracy")
    return [] if held else list(cfg.data.val)


def check_card(folder: str, prompt: Prompt, label_set: LabelSet) -> None:
    """Refuse (ValueError) an adapter that was trained with other words or labels than it would be used with."""
    card = read_card(folder)
    trained, now = card["prompt"], {"name": prompt.name, "text": render(prompt, label_set), "grammar": prompt.grammar}
    if card["labels"]["order"] != list(label_set.labels):  # which the prompt's words name
        raise ValueError(f"{folder} was trained on other labels: set labels={card['labels']['name']}")
    if trained != now:
        other = trained["name"] != now["name"]
        way_out = (
            f"set prompt={trained['name']}" if other else "give it those words again, or train anew with restart=true"
        )
        raise ValueError(f"{folder} was trained with other words than prompt={now['name']} has: {way_out}")


def quiet() -> None:
    """Hide start-up notices of Lightning and transformers; their weight-loading bar shows on a terminal only."""
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message=f"(?is){message}")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
