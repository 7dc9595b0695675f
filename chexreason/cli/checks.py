"""The settings of a run checked against its data and its policy: what does nothing, what would corrupt it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from chexreason import build
from chexreason.data.prevalence import prevalence_of
from chexreason.labels.schema import LabelSet
from chexreason.model.adapters import answer_tokens
from chexreason.model.policy import Policy
from chexreason.preflight import settings as preflight
from chexreason.rewards.lab.earnings import degenerate_warning
from chexreason.types import Sample


def check_settings(cfg: DictConfig, samples: Sequence[Sample], policy: Policy, label_set: LabelSet) -> list[str]:
    """Warnings about settings that do nothing, for training on ``samples`` with the adapter attached to ``policy``.

    Raises ValueError listing, once, all that would corrupt the run.
    """
    found = [*_of_policy(cfg, samples, policy), *_of_training(cfg, samples, policy, label_set), *_of_grpo(cfg)]
    return preflight.report(found)


def _of_policy(cfg: DictConfig, samples: Sequence[Sample], policy: Policy) -> list[preflight.Finding | None]:
    images, longest = preflight.two_images(), max((sample.prompt for sample in samples), key=len)
    prompts, seen = policy.encode(images, ["Hi", longest]), policy.encode(images, [longest] * 2)
    rates = {n: m.p for n, m in policy.named_modules() if isinstance(m, torch.nn.Dropout)}
    rates["attention_dropout"] = getattr(policy.base.config.get_text_config(), "attention_dropout", 0.0)
    return [
        preflight.right_padding(prompts.attention_mask),
        preflight.rollout_dropout(rates) if cfg.phase.name == "grpo" else None,
        preflight.unknown_stop_ids(policy.stop_ids, set(policy.tokenizer.get_vocab().values())),
        preflight.sampleable_image_token(policy.base.config.image_token_id, policy.banned_ids),
        preflight.truncated_prompts(int(prompts.attention_mask.sum(1).max()), cfg.model.max_new_tokens, policy.context),
        preflight.blind(*preflight.first_logits(policy, seen)),
    ]


def _of_training(
    cfg: DictConfig, samples: Sequence[Sample], policy: Policy, label_set: LabelSet
) -> list[preflight.Finding | None]:
    judged = {label for s in samples for label, known in zip(label_set, s.study.mask, strict=True) if known}
    found = [preflight.labels_not_in_data(list(label_set), judged)]
    found.append(preflight.warmup_only(_steps(cfg, len(samples)), cfg.optim.scheduler.warmup))
    if cfg.phase.teacher is not None:
        lengths = _answer_lengths(samples, policy)
        found += [preflight.nothing_to_learn(lengths), preflight.long_answers(lengths, cfg.model.max_new_tokens)]
    if cfg.phase.name == "grpo":
        found.append(_of_reward(cfg, samples, label_set))
    return found


def _of_reward(cfg: DictConfig, samples: Sequence[Sample], label_set: LabelSet) -> preflight.Finding | None:
    """The rewards lab's warning: a policy that looks at no image out-earns an honest one."""
    studies = [sample.study for sample in samples]
    reward = build.build_reward(cfg.reward, lambda: prevalence_of(studies, label_set))
    text = degenerate_warning(reward, studies, label_set, samples[0].prompt, cfg.prompt.grammar)
    return None if text is None else preflight.Finding(text, stops=False)


def _answer_lengths(samples: Sequence[Sample], policy: Policy) -> dict[str, int]:
    """Tokens of each answer to learn, stop token included, by study; empty where none is learned from."""
    written = [sample for sample in samples if sample.answer is not None]
    counts = policy.encode_answers([str(sample.answer) for sample in written])[1].sum(1).tolist()
    return {sample.study.study_id: int(n) for sample, n in zip(written, counts, strict=True)}


def _steps(cfg: DictConfig, n_samples: int) -> int:
    """Optimiser steps of the run on one device."""
    if "max_steps" in cfg.phase:
        return int(cfg.phase.max_steps)
    if cfg.phase.name == "grpo":
        return int(cfg.phase.rollouts * cfg.objective.updates_per_rollout)
    return -(-n_samples // (cfg.phase.batch_size * cfg.phase.accumulate)) * int(cfg.phase.max_epochs)


def _of_grpo(cfg: DictConfig) -> list[preflight.Finding | None]:
    if cfg.phase.name != "grpo":
        return []
    objective, sampling = cfg.objective, cfg.phase.module.sampling
    return [
        preflight.greedy_rollout(sampling.temperature),
        preflight.checkpointed_prefix(bool(cfg.model.get("gradient_checkpointing", False))),
        preflight.module_settings(cfg.phase.accumulate, cfg.phase.gradient_clip_val),
        preflight.idle_clip(objective.name, objective.updates_per_rollout),
        preflight.scaled_dr_grpo(objective.name, objective.normaliser, objective.scale),
        preflight.unreachable_length(*_asked_length(cfg), sampling.max_new_tokens),
        preflight.uncorrected_truncation(
            sampling.top_p, sampling.get("top_k", 0), objective.get("correction", "none") != "none"
        ),
        preflight.base_as_reference(objective.kl_beta, list(cfg.adapters)),
        *(preflight.short_completions(sampling.max_new_tokens, answer_tokens(a), a) for a in cfg.adapters),
    ]


def _asked_length(cfg: DictConfig) -> tuple[int, float]:
    """The tokens below which a reward pays less, and by how much; not of the members of a mix."""
    weight = (cfg.reward.get("weights") or {}).get("length_penalty", 1.0)
    return cfg.reward.get("min_length", 0), cfg.reward.get("length_penalty", 0.0) * weight
