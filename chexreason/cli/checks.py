"""What the config of a run says to preflight: its worst batch, its memory plan, and its settings as plain values."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from chexreason.build.data import build_labels, build_prompt, training_prevalence
from chexreason.build.model import build_policy
from chexreason.build.training import build_data, build_reward, max_steps
from chexreason.labels.schema import LabelSet
from chexreason.model.adapters import answer_tokens, attach_lora, blank_adapter, rank_of
from chexreason.model.generate import Sampling
from chexreason.model.policy import Policy
from chexreason.preflight import settings as table
from chexreason.preflight.memory import (
    GIB,
    STATE_BYTES,
    STATE_BYTES_8BIT,
    MemoryPlan,
    WorstBatch,
    measure_stages,
    plan_stages,
)
from chexreason.preflight.meta_model import blank_policy, count_text_tokens
from chexreason.prompts import render
from chexreason.rewards.lab.accounts import degenerate_warning
from chexreason.types import Sample

log = logging.getLogger(__name__)


def before_training(cfg: DictConfig, samples: Sequence[Sample], policy: Policy, label_set: LabelSet) -> None:
    """Check the settings and, on a GPU, plan the memory and run the worst batch; what only wastes effort is logged.

    Raises ValueError with the settings to change.
    """
    for warning in check_settings(cfg, samples, policy, label_set):
        log.log(logging.INFO if _as_shipped(warning) else logging.WARNING, "%s", warning)
    if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu":
        planned = plan(cfg)
        log.info("%s", planned.table())
        check_fit(cfg, planned)
        home = policy.device
        for name, peak in measure_stages(policy.to("cuda"), worst_batch(cfg, policy)).items():
            log.info("measured %s: %.2f GiB", name, peak / GIB)
        policy.to(home)


def _as_shipped(warning: str) -> bool:
    """True of a setting that the command line leaves as its config has it: people cannot be warned of our choices."""
    asked = HydraConfig.get().overrides.task if HydraConfig.initialized() else [warning]
    named = re.findall(r"\bset ([\w.]+)=", warning)
    return bool(named) and not any(key in word for key in named for word in asked)


def check_data(cfg: DictConfig) -> list[str]:
    """The warnings of ``check_settings`` for the weights and the prepared data of the config, loaded for it."""
    label_set, policy = build_labels(cfg), build_policy(cfg)
    data = build_data(cfg, policy, build_prompt(cfg), label_set)
    attach_lora(policy, **OmegaConf.to_container(cfg.adapter, resolve=True))
    return check_settings(cfg, data.train_samples, policy, label_set)


def measure_run(cfg: DictConfig) -> dict[str, int]:
    """Peak bytes of each stage's worst batch, run for real on the GPU, or on the CPU where there is none."""
    bare = OmegaConf.merge(cfg, {"adapters": []})  # they need not be trained yet: blank ones are as large
    policy = _in_training(cfg, build_policy(bare).to("cuda" if torch.cuda.is_available() else "cpu"))
    return measure_stages(policy, worst_batch(cfg, policy))


def plan(cfg: DictConfig, only: Collection[str] = ()) -> MemoryPlan:
    """The stages of the run, or ``only`` those named, rehearsed without weights, against the memory of the device.

    The largest batch that fits is not looked for where only some stages are asked for.
    """
    chosen = {k: cfg.model[k] for k in ("source", "dtype", "attention", "gradient_checkpointing")}
    policy = _in_training(cfg, blank_policy(**chosen, family=cfg.model.get("family")))
    device, memory = device_memory(cfg)
    share = 1 - cfg.get("reserve", 0.1)
    if _by_vllm(cfg):
        share -= cfg.rollout.gpu_memory_utilization
        device += f", less the {cfg.rollout.gpu_memory_utilization:.0%} of it that vLLM draws rollouts in"
    capacity = max(0, int(memory * share))
    worst = worst_batch(cfg, policy)
    asked = {name: stage for name, stage in worst.stages.items() if not only or name in only}
    stages = plan_stages(
        policy,
        replace(worst, stages=asked),
        capacity=0 if only else capacity,
        state_bytes=STATE_BYTES_8BIT if cfg.optim.optimizer._target_.endswith("8bit") else STATE_BYTES,
        quantised=bool(cfg.model.get("quantise")),
    )
    return MemoryPlan(device, capacity, stages)


def check_fit(cfg: DictConfig, planned: MemoryPlan) -> None:
    """Raise ValueError where a stage does not fit, with settings that were planned together and fit, or the memory."""
    over = planned.over()

    def lack(changes: Mapping[str, object]) -> int:
        changed = cfg.copy()
        for key, value in changes.items():
            OmegaConf.update(changed, key, value)
        stages = plan(changed, [stage.name for stage in over]).stages
        return sum(max(0, stage.total - planned.capacity) for stage in stages)

    chosen: dict[str, object] = {s.setting: max(s.largest, 1) for s in over if s.studies > 1}
    left = lack(chosen) if over else 0
    for key, value in lesser(cfg):
        if left and (now := lack({**chosen, key: value})) < left:
            chosen, left = {**chosen, key: value}, now
    if over:
        memory = device_memory(cfg)[1] * max(stage.total for stage in over) / max(planned.capacity, 1)
        larger = f"no setting that this run accepts is enough: it needs a device of {math.ceil(memory / GIB)} GiB"
        way_out = larger if left else "planned, it fits with " + " ".join(f"{k}={v}" for k, v in chosen.items())
        raise ValueError(f"{planned.shortage()}\n  {way_out}")


def lesser(cfg: DictConfig) -> list[tuple[str, object]]:
    """The changes of settings that this run accepts and that take less memory, the gentlest first."""
    model, module, grpo = cfg.model, cfg.phase.module, cfg.phase.name == "grpo"
    learned = [answer_tokens(adapter) for adapter in cfg.adapters if rank_of(adapter)]
    fewer = max([model.max_new_tokens // 2, cfg.reward.get("min_length", 0), *learned])  # a cut answer earns nothing
    rows = [
        ("model.gradient_checkpointing", True, not grpo and not model.gradient_checkpointing),
        ("model.dtype", "bfloat16", model.dtype == "float32"),
        ("phase.module.group_size", 2, grpo and module.get("group_size", 0) > 2),
        ("model.quantise", "nf4", not (cfg.adapters or model.quantise or _by_vllm(cfg))),  # adapters know their base
        ("model.max_pixels", model.get("min_pixels"), model.get("min_pixels") != model.get("max_pixels")),
        ("model.max_new_tokens", fewer, grpo and fewer < model.max_new_tokens),
    ]
    return [(key, value) for key, value, accepted in rows if accepted]


def device_memory(cfg: DictConfig) -> tuple[str, int]:
    """The device the trainer would take, by name, and its bytes; the paper's A100 where it asks for an absent GPU."""
    if cfg.get("device_gib"):
        return f"a device of {cfg.device_gib:g} GiB", int(cfg.device_gib * GIB)
    wants_gpu = cfg.trainer.accelerator in ("gpu", "cuda", "auto")
    if wants_gpu and torch.cuda.is_available():
        return torch.cuda.get_device_name(0), int(torch.cuda.get_device_properties(0).total_memory)
    if wants_gpu and cfg.trainer.accelerator != "auto":
        return "no GPU here, so an A100 of 80 GiB", 80 * GIB
    return "this machine's CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def worst_batch(cfg: DictConfig, policy: Policy) -> WorstBatch:
    """The largest work of each stage; the prompt is counted where the tokenizer is at hand."""
    words, phase = render(build_prompt(cfg), build_labels(cfg)), cfg.phase
    grpo, batch_size = phase.name == "grpo", int(phase.batch_size)
    validation = ("model.eval_batch_size", int(cfg.model.eval_batch_size))
    stages, sampling = {"update": ("phase.batch_size", batch_size)}, {}
    if grpo:
        stages = {"rollout": ("phase.batch_size", batch_size)} if not _by_vllm(cfg) else {}
        stages["update"] = ("phase.module.micro_studies", min(int(phase.module.micro_studies), batch_size))
        drawn = phase.module.sampling
        sampling["rollout"] = Sampling(drawn.max_new_tokens, drawn.temperature, drawn.top_p, drawn.get("top_k", 0))
    return WorstBatch(
        text=cfg.get("text_tokens") or count_text_tokens(cfg.model.source, words) or 400,
        image=policy.family.image_tokens(policy.base.config, cfg.model.get("max_pixels")),
        answer=cfg.get("answer_tokens") or cfg.model.max_new_tokens,
        group_size=phase.module.group_size if grpo else 1,
        held=batch_size if grpo else 0,
        shared=grpo,
        stages={**stages, "validation": validation},
        sampling={**sampling, "validation": Sampling(cfg.model.max_new_tokens, temperature=0.0)},
    )


def _in_training(cfg: DictConfig, policy: Policy) -> Policy:
    """The policy with adapters of the run's sizes; one that is not trained yet counts as large as the run's own."""
    if cfg.adapters:
        ranks = [rank_of(folder) or int(cfg.adapter.r) for folder in cfg.adapters]
        blank_adapter(policy, sum(ranks))
    attach_lora(policy, **OmegaConf.to_container(cfg.adapter, resolve=True))
    policy.model.train()
    return policy


def _by_vllm(cfg: DictConfig) -> bool:
    """Whether rollouts are drawn in memory that vLLM takes for itself."""
    return cfg.phase.name == "grpo" and "gpu_memory_utilization" in cfg.rollout


def check_settings(cfg: DictConfig, samples: Sequence[Sample], policy: Policy, label_set: LabelSet) -> list[str]:
    """Warnings about settings that do nothing, for training on ``samples`` with the adapter attached to ``policy``.

    Raises ValueError listing, once, all that would corrupt the run.
    """
    return table.refuse(_faults(cfg, samples, policy, label_set))


def _faults(
    cfg: DictConfig, samples: Sequence[Sample], policy: Policy, label_set: LabelSet
) -> Iterator[table.SettingFault]:
    grpo, limit = cfg.phase.name == "grpo", cfg.model.max_new_tokens
    lengths = {} if cfg.phase.teacher is None else _answer_lengths(samples, policy)
    yield from table.precision_faults(cfg.trainer.precision)
    if grpo:
        yield from table.rollout_faults(
            group_size=cfg.phase.module.group_size,
            temperature=cfg.phase.module.sampling.temperature,
            checkpointing=bool(cfg.model.get("gradient_checkpointing", False)),
            dropout=table.dropout_rates(policy),
        )
        learned = {adapter: answer_tokens(adapter) for adapter in cfg.adapters}
        learned |= {"phase.teacher": max(lengths.values())} if lengths else {}
        read = {k: OmegaConf.to_container(cfg[k], resolve=True) for k in ("phase", "objective", "reward", "adapters")}
        yield from table.grpo_faults(read, learned)
    longest = max((sample.prompt for sample in samples), key=len)
    yield from table.policy_faults(**table.policy_facts(policy, longest), max_new_tokens=limit)
    yield from table.label_faults(list(label_set), [sample.study.mask for sample in samples])
    n_steps = max_steps(cfg)
    if n_steps < 0:
        n_steps = -(-len(samples) // (cfg.phase.batch_size * cfg.phase.accumulate)) * int(cfg.phase.max_epochs)
    yield from table.schedule_faults(n_steps, cfg.optim.scheduler.warmup)
    if cfg.phase.teacher is not None:
        yield from table.learned_faults(lengths, limit)
    if grpo:  # the rewards lab: does a policy that looks at no image out-earn an honest one?
        reward = build_reward(cfg.reward, lambda: training_prevalence(cfg, label_set))
        studies, answer_format = [sample.study for sample in samples], build_prompt(cfg).answer_format(label_set)
        if text := degenerate_warning(reward, studies, answer_format, samples[0].prompt):
            yield table.warning(text)


def _answer_lengths(samples: Sequence[Sample], policy: Policy) -> dict[str, int]:
    """Tokens of each answer to learn, stop token included, by study; empty where none is learned from."""
    written = [sample for sample in samples if sample.answer is not None]
    counts = policy.encode_answers([str(sample.answer) for sample in written])[1].sum(1).tolist()
    return {sample.study.study_id: int(n) for sample, n in zip(written, counts, strict=True)}
