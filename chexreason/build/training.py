"""From a training config to Lightning's objects: data module, module, reward, trainer with callbacks and loggers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_object
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf

from chexreason.build.data import (
    build_samples,
    check_training,
    choosing,
    load_studies,
    make,
    public_sets,
    training_prevalence,
)
from chexreason.build.model import chosen_on
from chexreason.data.leakage import TRAIN
from chexreason.data.sampling import hold_back, subset
from chexreason.labels.schema import LabelSet
from chexreason.model.adapters import attach_lora
from chexreason.model.policy import Policy
from chexreason.prompts import Prompt
from chexreason.rewards.base import Reward
from chexreason.runs import CHECKPOINT, COLLAPSE
from chexreason.signals import is_first_rank
from chexreason.traces.answer_faults import check_answers
from chexreason.training.callbacks.adapter_export import AdapterExport, EarlyStopping
from chexreason.training.callbacks.checkpoint import ResumePoint
from chexreason.training.callbacks.collapse_watch import CollapseWatch
from chexreason.training.callbacks.label_f1 import LabelF1Callback
from chexreason.training.callbacks.run_files import RewardLog, SampleLog, csv_logger
from chexreason.training.callbacks.run_progress import RunProgress
from chexreason.training.callbacks.transfer_rules import CHOSEN_BY, TransferRules, monitor_mode
from chexreason.training.callbacks.wandb_run import ANSWERS, WandbRun, finish_wandb
from chexreason.training.datamodule import StudyData
from chexreason.training.gate import Gate
from chexreason.training.policy_module import PolicyModule
from chexreason.types import Study

log = logging.getLogger(__name__)
Studies = Mapping[str, Sequence[Study]]  # by set
WANDB = "chexreason.training.callbacks.wandb_run.wandb_logger"


def build_data(cfg: DictConfig, policy: Policy, prompt: Prompt, label_set: LabelSet) -> StudyData:
    """Training samples of the phase's split, those held back from it, and the validation sets.

    The share ``phase.holdout`` of the split's studies is held back by patient, whatever the limit and the run's seed:
    all arms on this data hold back the same patients. Without it the home set validates with answers.
    Raises ValueError where the split is not one to train on or nothing can be held back, LeakageError where a sample is
    also one to evaluate on.
    """
    if cfg.phase.split not in TRAIN:
        raise ValueError(f"phase.split={cfg.phase.split} is not for training; train on one of: {', '.join(TRAIN)}")
    teacher = make(cfg.phase.teacher)
    studies = load_studies(cfg, cfg.data.home, (cfg.phase.split,), label_set)
    # Without a positive label there is no valid answer to learn, and nonsense would earn a full reward.
    useful = [study for study in studies if any(study.target)]
    if len(useful) < len(studies):
        said = "%s, %s: %d of %d studies have no positive label (%d no judged one): not trained on"
        unjudged = sum(not any(study.mask) for study in studies)
        log.info(said, cfg.data.home, cfg.phase.split, len(studies) - len(useful), len(studies), unjudged)
    patients = hold_back(useful, cfg.phase.get("holdout") or 0.0, cfg.data.get("seed") or 0)
    free = [study for study in useful if study.patient_id not in patients]
    train = build_samples(subset(free, cfg.phase.limit, cfg.seed), prompt, label_set, teacher)
    held = build_samples([s for s in useful if s.patient_id in patients], prompt, label_set, teacher)
    if patients and not any(sample.answer for sample in held):
        raise ValueError(
            f"phase.holdout={cfg.phase.holdout} holds back {len(patients)} patients, and phase.teacher has no answer "
            "about their studies, which give the validation loss: raise it, add answers, or set phase.holdout=0"
        )
    check_answers([*train, *held], prompt.answer_format(label_set))
    check_training(cfg, [*train, *held])
    if cfg.phase.name == "sft" and is_first_rank() and (sets := chosen_on(cfg)):
        told = f"the best adapter is chosen by {cfg.phase.monitor} on validation studies of {', '.join(sets)}"
        log.warning("%s, which tables score too: keep phase.holdout=0.1 and phase.monitor=val/loss", told)
    scored, spared = None if patients else cfg.data.home, cfg.phase.get("tuning") or 0.0
    val = {
        name: build_samples(
            choosing(cfg, name, label_set, spared)[0], prompt, label_set, teacher if name == scored else None
        )
        for name in cfg.data.val
    }
    return StudyData(
        policy.collate(),
        train,
        val,
        batch_size=cfg.phase.batch_size,
        eval_batch_size=cfg.model.eval_batch_size,
        accumulate=cfg.phase.accumulate,
        num_workers=cfg.num_workers,
        seed=cfg.seed,
        drop_last=cfg.phase.name == "grpo",
        held=held,
    )


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
        answer_format=prompt.answer_format(label_set),
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


def build_trainer(
    cfg: DictConfig, run_dir: Path, card: Mapping[str, object], label_set: LabelSet, data: StudyData
) -> L.Trainer:
    """Lightning's Trainer with this run's length, callbacks and loggers, whose figures are of ``data``."""
    phase, every_epoch = cfg.phase, cfg.phase.val_check_interval is None
    scored = {name: [sample.study for sample in samples] for name, samples in data.val_samples.items()}
    held = [sample.study for samples in data.held.values() for sample in samples] or scored.get(cfg.data.home, [])
    slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return make(
        cfg.trainer,
        max_epochs=phase.max_epochs if "max_epochs" in phase else -1,
        max_steps=max_steps(cfg),
        accumulate_grad_batches=phase.accumulate,
        gradient_clip_val=phase.gradient_clip_val,
        val_check_interval=None if every_epoch else phase.val_check_interval,
        check_val_every_n_epoch=1 if every_epoch else None,
        enable_progress_bar=False,  # RunProgress shows the whole run
        callbacks=_callbacks(cfg, run_dir, card, label_set),
        logger=[csv_logger(run_dir), *build_loggers(cfg, run_dir, label_set, "train", "val", scored, held)],
        default_root_dir=str((run_dir / CHECKPOINT).parent),  # Lightning prefers an hpc_ckpt_* that it finds there
        # SLURM's ranks, where Lightning would find them, without its requeue: that saves in the middle of a step
        plugins=[SLURMEnvironment(auto_requeue=False)] if slurm else [],
        _convert_="object",
    )


def max_steps(cfg: DictConfig) -> int:
    """Optimiser steps after which training ends; -1 where its epochs end it."""
    if "max_steps" in cfg.phase:
        return int(cfg.phase.max_steps)
    # Lightning counts optimiser steps; a rollout makes several
    return int(cfg.phase.rollouts * cfg.objective.updates_per_rollout) if "rollouts" in cfg.phase else -1


def _callbacks(cfg: DictConfig, run_dir: Path, card: Mapping[str, object], label_set: LabelSet) -> list[L.Callback]:
    monitor, mode = cfg.phase.monitor, monitor_mode(cfg.phase.monitor, cfg.phase.mode)
    callbacks: list[L.Callback] = [
        LabelF1Callback(label_set),
        TransferRules(cfg.data.home, monitor, **cfg.callbacks.transfer),
        AdapterExport(str(run_dir / "adapter"), monitor, mode, card),
        SampleLog(str(run_dir / "samples.jsonl"), cfg.callbacks.samples),
        ResumePoint(run_dir / CHECKPOINT, cfg.callbacks.checkpoint_every),
    ]
    if cfg.phase.name == "grpo":
        callbacks += [RewardLog(run_dir), CollapseWatch(run_dir / COLLAPSE, **cfg.callbacks.collapse)]
    if (node := cfg.logger.get("wandb")) is not None:
        callbacks.append(WandbRun(node.completions, media=node.media))
    if cfg.phase.patience is not None:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=cfg.phase.patience))
    if cfg.callbacks.progress:
        updates = cfg.objective.updates_per_rollout if cfg.phase.name == "grpo" else 1
        callbacks.append(RunProgress(f"{cfg.arm}, batches", updates))
    return callbacks


def build_loggers(
    cfg: DictConfig,
    run_dir: Path,
    label_set: LabelSet,
    job: str,
    split: str,
    studies: Studies,
    fitted: Sequence[Study] = (),
) -> list[Gate]:
    """The loggers that ``logger`` names by a ``_target_``, each behind a gate, for a ``job`` that scores ``studies``.

    Raises ValueError where a logger has no ``_target_``, ModuleNotFoundError with the package where it is missing.
    """
    chosen = OmegaConf.to_container(cfg.logger, resolve=True)
    nodes = {key: node for key, node in chosen.items() if isinstance(node, dict)}
    public = public_sets(cfg) if nodes else frozenset()
    small, gates = _small_groups(cfg, label_set, public, split, studies, fitted) if nodes else [], []
    for key, node in nodes.items():
        given, settings = {}, {name: value for name, value in node.items() if name not in ANSWERS}
        if key == "wandb":
            known = {"_target_": WANDB, "name": f"{cfg.name}/{cfg.arm}/seed{cfg.seed}", "job_type": job}
            given = {"run_dir": run_dir, "config": OmegaConf.to_container(cfg, resolve=True)}
            settings = known | settings
        if "_target_" not in settings:
            raise ValueError(f"logger.{key} names no logger: +logger.{key}._target_=lightning.pytorch.loggers....")
        try:
            logger = make(settings, _partial_=True, _convert_="all")(**given)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"logger.{key}: {str(error).splitlines()[-1]}") from None  # says: pip install ...
        gates.append(Gate(logger, public if key == "wandb" else (), small, node.get("allow_export")))
    return gates


def log_scores(cfg: DictConfig, scores: Mapping[str, Mapping[str, float]], label_set: LabelSet) -> None:
    """Give the figures of each evaluated set, as ``<split>/<set>/<figure>``, to the loggers of ``cfg``."""
    figures = {f"{cfg.split}/{name}/{key}": value for name, found in scores.items() for key, value in found.items()}
    studies = {name: load_studies(cfg, name, (cfg.split,), label_set, limit=cfg.get("limit")) for name in scores}
    for gate in build_loggers(cfg, Path(cfg.run_dir), label_set, "evaluate", cfg.split, studies):
        gate.log_metrics({key: value for key, value in figures.items() if math.isfinite(value)})
        gate.finalize("success")
    finish_wandb()


def _small_groups(
    cfg: DictConfig, label_set: LabelSet, public: Collection[str], split: str, studies: Studies, fitted: Sequence[Study]
) -> list[str]:
    """How figures begin that are of fewer than ``logger.min_patients`` patients of sets that are not ``public``.

    That is a set of so few in ``split``, with what is computed over the sets; the loss on ``fitted`` studies of so few;
    the F1 of a label that so few have, and of one more label where it would be the only one: the mean would tell it.
    """
    least = cfg.logger.get("min_patients", 10)
    close = fitted and fitted[0].dataset not in public and _patients(fitted) < least
    found = ["val/loss", "val/token_accuracy"] if close else []
    for name, group in studies.items():
        if name in public:
            continue
        if _patients(group) < least:
            found += [f"{split}/{place}/" for place in (name, *CHOSEN_BY)]
        having = {label: _patients(s for s in group if s.target[i]) for i, label in enumerate(label_set)}
        rare = sorted(filter(having.get, having), key=having.__getitem__)
        few = sum(having[label] < least for label in rare)
        found += [f"{split}/{name}/f1/{label}" for label in label_set if label not in rare[few + (few == 1) :]]
    return found


def _patients(studies: Iterable[Study]) -> int:
    return len({study.patient_id for study in studies})
