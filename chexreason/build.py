"""From config to objects: the only importer of ``hydra.utils``, and the last place that sees a DictConfig."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from chexreason.data import manifest as manifests
from chexreason.data.batches import EncodePrompts, LoadImage
from chexreason.data.leakage import EVALUATION, TRAIN, check_leaks
from chexreason.data.prepare import MANIFEST_NAME, prepare
from chexreason.data.prevalence import prevalence_of
from chexreason.data.sampling import subset
from chexreason.labels.catalog import CHEXPERT14, restrict
from chexreason.labels.crosswalk import crosswalk_of
from chexreason.labels.declare import declare
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import LabelPolicy, label_policy
from chexreason.model import features
from chexreason.model.adapters import attach_lora, read_card
from chexreason.model.policy import Policy
from chexreason.progress import track
from chexreason.prompts import Prompt, render
from chexreason.rewards.base import Reward
from chexreason.runs import COLLAPSE
from chexreason.traces.answer_faults import check_answers
from chexreason.training.callbacks.adapter_export import AdapterExport
from chexreason.training.callbacks.checkpoint import ResumePoint
from chexreason.training.callbacks.collapse_watch import CollapseWatch
from chexreason.training.callbacks.label_f1 import LabelF1Callback
from chexreason.training.callbacks.loggers import csv_logger, wandb_logger
from chexreason.training.callbacks.reward_log import RewardLog
from chexreason.training.callbacks.samples import SampleLog
from chexreason.training.callbacks.transfer_rules import TransferRules, monitor_mode
from chexreason.training.callbacks.wandb_run import WandbRun
from chexreason.training.datamodule import StudyData
from chexreason.training.policy_module import PolicyModule
from chexreason.types import Sample, Study


def make(node: Any, **kwargs: Any) -> Any:
    """Hydra's ``instantiate`` whose errors are the constructor's own: what a user can mend reads as it was written."""
    try:
        return instantiate(node, **kwargs)
    except InstantiationException as error:
        raise error.__cause__ or error from None


def build_labels(cfg: DictConfig) -> LabelSet:
    """The label set the model answers with."""
    return make(cfg.labels)


def build_prompt(cfg: DictConfig) -> Prompt:
    """The instruction format."""
    return Prompt(**OmegaConf.to_container(cfg.prompt, resolve=True))


def build_policy(cfg: DictConfig) -> Policy:
    """The base model with ``cfg.adapters`` merged, on the device Lightning would choose."""
    own = ("eval_batch_size", "max_new_tokens")
    node = OmegaConf.create({k: v for k, v in cfg.model.items() if k not in own})
    return make(node, adapters=list(cfg.adapters))


def build_manifests(
    cfg: DictConfig, *, on_error: str, workers: int, check: bool = True
) -> dict[str, manifests.Manifest]:
    """Prepare every set of the data config; what is up to date is left as it is."""
    prepared = {}
    for name, node in cfg.data.sets.items():
        source = make(node.source, _convert_="all")
        if source.name != name:  # rows, prefixes and the page would carry another name than the config
            raise ValueError(f"set '{name}' of data={cfg.data.name} has a source called '{source.name}': name it alike")
        prepared[name] = prepare(
            source,
            Path(cfg.data.folder) / name,
            on_error,
            workers,
            partial(track, description=f"prepare {name}"),
            select=make(node.get("select"), _convert_="all"),
            policy=set_policy(cfg, name),
            check=check,
        )
    return prepared


def set_policy(cfg: DictConfig, name: str) -> LabelPolicy:
    """The label policy of one set of the data config; raises KeyError or ValueError with the choices."""
    node = cfg.data.sets[name].policy
    return label_policy(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node)


def load_manifest(cfg: DictConfig, name: str) -> manifests.Manifest:
    """One prepared set; raises KeyError for a set the data config does not have."""
    if name not in cfg.data.sets:
        raise KeyError(f"data set '{name}' is not in data={cfg.data.name}; it has: {', '.join(cfg.data.sets)}")
    return manifests.read(Path(cfg.data.folder) / name / MANIFEST_NAME)


def load_studies(cfg: DictConfig, name: str, splits: Sequence[str], label_set: LabelSet) -> list[Study]:
    """The studies of one prepared set, masked outside its ``label_list``.

    Raises KeyError for a set the data config does not have, or a label list that does not exist.
    """
    found = manifests.studies(load_manifest(cfg, name), label_set, set_policy(cfg, name), splits)
    return restrict(found, label_set, cfg.data.sets[name].get("label_list"))


def declaration(cfg: DictConfig, name: str, manifest: manifests.Manifest) -> dict[str, str]:
    """What the labels of one prepared set mean: ``policy`` and ``data_sha256`` as predictions carry them, ``text``."""
    policy, label_list = set_policy(cfg, name), cfg.data.sets[name].get("label_list")
    judged = [label for label in CHEXPERT14 if manifest.frame[label].notna().any()]
    text = declare(name, policy, judged, crosswalk_of(manifest.provenance), label_list)
    identity = manifests.content_hash(manifest.frame)[:16]
    return {"policy": policy.declared, "data_sha256": identity, "text": text}


def training_prevalence(cfg: DictConfig, label_set: LabelSet) -> dict[str, float]:
    """Share of positives among the judged training studies of the home set, by label; 0 where none is judged."""
    return prevalence_of(load_studies(cfg, cfg.data.home, ("sft", "rl"), label_set), label_set)


def build_samples(studies: Sequence[Study], prompt: Prompt, label_set: LabelSet, teacher: Any) -> list[Sample]:
    """Studies with the prompt's words, and the teacher's answer where there is a teacher and it can write one."""
    words = render(prompt, label_set)
    if teacher is None:
        return [Sample(study, words) for study in studies]
    writable = [study for study in studies if teacher.can_write(study, label_set)]
    return [Sample(study, words, teacher.write(study, prompt, label_set)) for study in writable]


def build_data(cfg: DictConfig, policy: Policy, prompt: Prompt, label_set: LabelSet) -> StudyData:
    """Training samples of the phase's split and the validation sets; only the home set validates with answers.

    Raises ValueError where the split is not one to train on, LeakageError where a sample is also one to evaluate on.
    """
    if cfg.phase.split not in TRAIN:
        raise ValueError(f"phase.split={cfg.phase.split} is not for training; train on one of: {', '.join(TRAIN)}")
    teacher = make(cfg.phase.teacher)
    studies = load_studies(cfg, cfg.data.home, (cfg.phase.split,), label_set)
    # Without a positive label there is no valid answer to learn, and nonsense would earn a full reward.
    useful = [study for study in studies if any(study.target)]
    train = build_samples(subset(useful, cfg.phase.limit, cfg.seed), prompt, label_set, teacher)
    check_answers(train, label_set, prompt.grammar)
    check_training(cfg, train)
    val = {
        name: build_samples(
            load_studies(cfg, name, ("val",), label_set), prompt, label_set, teacher if name == cfg.data.home else None
        )
        for name in cfg.data.val
    }
    encode, load = image_reader(cfg, policy)
    return StudyData(
        encode,
        policy.encode_answers,
        train,
        val,
        batch_size=cfg.phase.batch_size,
        eval_batch_size=cfg.model.eval_batch_size,
        accumulate=cfg.phase.accumulate,
        num_workers=cfg.num_workers,
        seed=cfg.seed,
        drop_last=cfg.phase.name == "grpo",
        load=load,
    )


def check_training(cfg: DictConfig, train: Sequence[Sample]) -> None:
    """Refuse (LeakageError) samples whose patient or picture is also a validation or test one of any prepared set."""
    folder, chosen = Path(cfg.data.folder), {sample.study.study_id for sample in train}
    frames = {}
    for name in cfg.data.sets:
        if (folder / name / MANIFEST_NAME).is_file():  # a test set may be prepared later: then it is checked then
            frame = load_manifest(cfg, name).frame
            frames[name] = frame[frame["split"].isin(EVALUATION) | frame["study_id"].isin(chosen)]
    pairs = OmegaConf.to_container(cfg.data.get("allow_overlap") or OmegaConf.create([]))
    check_leaks(frames, [pair for pair in pairs if set(pair) <= set(frames)])


def image_reader(cfg: DictConfig, policy: Policy) -> tuple[EncodePrompts, LoadImage]:
    """How images are fetched and encoded: from their files, resized once, or not at all where they are known."""
    return features.image_reader(policy, cfg.paths.image_cache, cfg.paths.feature_cache)


def build_module(cfg: DictConfig, policy: Policy, prompt: Prompt, label_set: LabelSet) -> PolicyModule:
    """Attach the adapter and wrap the policy in its phase's module."""
    attach_lora(policy, **OmegaConf.to_container(cfg.adapter, resolve=True))
    extra: dict[str, Any] = {}
    if cfg.phase.name == "grpo":
        reward = build_reward(cfg.reward, lambda: training_prevalence(cfg, label_set))
        extra = {"reward": reward, "objective": make(cfg.objective), "seed": cfg.seed}
    module: PolicyModule = make(
        cfg.phase.module,
        policy=policy,
        label_set=label_set,
        grammar=prompt.grammar,
        make_optimizer=make(cfg.optim.optimizer),
        make_scheduler=make(cfg.optim.scheduler),
        max_new_tokens=cfg.model.max_new_tokens,
        _convert_="object",
        **extra,
    )
    # from_pretrained returns a model in evaluation mode and Lightning keeps modes: dropout would stay off
    return module.train()


def build_reward(node: DictConfig, prevalence: Callable[[], Mapping[str, float]]) -> Reward:
    """The reward of a config; each constructor in it that takes ``prevalence`` gets it, by label, unless it is given.

    ``prevalence`` is called only where a constructor takes it.
    """
    reward: Reward = make(_with_prevalence(OmegaConf.to_container(node, resolve=True), prevalence))
    return reward


def _with_prevalence(node: Any, prevalence: Callable[[], Mapping[str, float]]) -> Any:
    if not isinstance(node, dict):
        return node
    filled = {key: _with_prevalence(value, prevalence) for key, value in node.items()}
    takes = signature(get_object(node["_target_"])).parameters if "_target_" in node else {}
    return {"prevalence": dict(prevalence()), **filled} if "prevalence" in takes.keys() - node.keys() else filled


def adapter_card(cfg: DictConfig, prompt: Prompt, label_set: LabelSet) -> dict[str, object]:
    """What must be known to use an adapter: prompt, labels, policies, data."""
    return {
        "phase": cfg.phase.name,
        "prompt": {"name": prompt.name, "text": render(prompt, label_set), "grammar": prompt.grammar},
        "labels": {"name": label_set.name, "order": list(label_set.labels)},
        "label_policies": {name: set_policy(cfg, name).declared for name in cfg.data.sets},
        "data": cfg.data.name,
        "seed": cfg.seed,
    }


def check_card(folder: str, prompt: Prompt, label_set: LabelSet) -> None:
    """Refuse (ValueError) an adapter that was trained with other words or labels than it would be used with."""
    card = read_card(folder)
    trained, now = card["prompt"], {"name": prompt.name, "text": render(prompt, label_set), "grammar": prompt.grammar}
    if trained != now:
        raise ValueError(f"{folder} was trained with prompt '{trained['name']}', not this '{now['name']}': set prompt=")
    if card["labels"]["order"] != list(label_set.labels):
        raise ValueError(f"{folder} was trained on labels '{card['labels']['name']}': set labels=")


def build_trainer(cfg: DictConfig, run_dir: Path, card: Mapping[str, object], label_set: LabelSet) -> L.Trainer:
    """Lightning's Trainer with this run's length, callbacks and loggers."""
    phase = cfg.phase
    every_epoch = phase.val_check_interval is None
    return make(
        cfg.trainer,
        max_epochs=phase.max_epochs if "max_epochs" in phase else -1,
        max_steps=_max_steps(cfg),
        accumulate_grad_batches=phase.accumulate,
        gradient_clip_val=phase.gradient_clip_val,
        val_check_interval=None if every_epoch else phase.val_check_interval,
        check_val_every_n_epoch=1 if every_epoch else None,
        enable_progress_bar=cfg.callbacks.progress,
        callbacks=_callbacks(cfg, run_dir, card, label_set),
        logger=_loggers(cfg, run_dir),
        default_root_dir=str(run_dir),
        _convert_="object",
    )


def _max_steps(cfg: DictConfig) -> int:
    if "max_steps" in cfg.phase:
        return int(cfg.phase.max_steps)
    # Lightning counts optimiser steps; a rollout makes several
    return int(cfg.phase.rollouts * cfg.objective.updates_per_rollout) if "rollouts" in cfg.phase else -1


def _callbacks(cfg: DictConfig, run_dir: Path, card: Mapping[str, object], label_set: LabelSet) -> list[L.Callback]:
    monitor, mode = cfg.phase.monitor, monitor_mode(cfg.phase.monitor, cfg.phase.mode)
    callbacks: list[L.Callback] = [
        LabelF1Callback(label_set),
        TransferRules(cfg.data.home, monitor, **cfg.callbacks.transfer),
        AdapterExport(str(run_dir / "adapter"), monitor, mode, card, list(cfg.adapters)),
        SampleLog(str(run_dir / "samples.jsonl"), cfg.callbacks.samples),
        ResumePoint(run_dir / "checkpoints" / "last.ckpt", cfg.callbacks.checkpoint_every),
    ]
    if cfg.phase.name == "grpo":
        callbacks += [RewardLog(run_dir), CollapseWatch(run_dir / COLLAPSE, **cfg.callbacks.collapse)]
    if (node := cfg.logger.wandb) is not None:
        shown = {key: node[key] for key in ("media", "allow_export")}
        callbacks.append(WandbRun(node.completions, **shown, credentialed=cfg.data.get("credentialed") or ()))
    if cfg.phase.patience is not None:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=cfg.phase.patience))
    if cfg.callbacks.progress:
        callbacks.append(RichProgressBar())
    return callbacks


def _loggers(cfg: DictConfig, run_dir: Path) -> list[Logger]:
    if cfg.logger.wandb is None:
        return [csv_logger(run_dir)]
    node, name = cfg.logger.wandb, f"{cfg.name}/{cfg.arm}/seed{cfg.seed}"
    config = OmegaConf.to_container(cfg, resolve=True)
    chosen = {key: node[key] for key in ("project", "entity", "group", "offline")}
    return [csv_logger(run_dir), wandb_logger(run_dir, **chosen, name=name, config=config)]
