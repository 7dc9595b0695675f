"""Settings that do nothing or corrupt a run: checks over plain values, each fault with its way out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from chexreason.model.generate import sampling_mode
from chexreason.model.kv import prefill
from chexreason.model.policy import Policy


@dataclass(frozen=True)
class SettingFault:
    """One fault of the settings, with the value, the place and the way out; ``stops`` tells an error from a warning."""

    text: str
    stops: bool = True


def refuse(faults: Iterable[SettingFault]) -> list[str]:
    """The warnings, to be printed; raises ValueError listing all errors at once, warnings after them."""
    found = list(faults)
    errors = [f"  {fault.text}" for fault in found if fault.stops]
    warnings = [fault.text for fault in found if not fault.stops]
    if errors:
        noted = [f"  (warning) {text}" for text in warnings]
        raise ValueError(f"{len(errors)} of the settings would corrupt the run:\n" + "\n".join([*errors, *noted]))
    return warnings


def warning(text: str) -> SettingFault:
    """A fault that only wastes effort."""
    return SettingFault(text, stops=False)


def rollout_faults(
    *, group_size: int, temperature: float, checkpointing: bool, dropout: Mapping[str, float]
) -> Iterator[SettingFault]:
    """What makes a GRPO rollout useless or another distribution than the update's; ``dropout`` by module name."""
    if live := {name: rate for name, rate in dropout.items() if rate > 0}:
        example = next(f"{rate} in {name}" for name, rate in live.items())
        yield SettingFault(
            f"dropout is on in rollouts ({len(live)} modules, e.g. {example}): set adapter.dropout=0, or rollout and "
            "update disagree"
        )
    if temperature <= 0:
        yield SettingFault(
            f"rollouts at phase.module.sampling.temperature={temperature} give every group one answer: set a "
            "temperature above 0"
        )
    if group_size < 2:
        yield SettingFault(f"phase.module.group_size={group_size}: a group of one has no advantage; use 2 or more")
    if checkpointing:
        yield SettingFault(
            "gradient checkpointing drops the cache by which a group shares its prompt: set "
            "model.gradient_checkpointing=false, and lower phase.module.micro_studies, phase.module.group_size or "
            "model.max_new_tokens to save memory"
        )


def grpo_faults(config: Mapping[str, Any], learned: Mapping[str, int]) -> Iterator[SettingFault]:
    """Parts of a GRPO run's ``config`` that do nothing, or do not go together.

    That is what Lightning is asked to do and the module does; an objective that is not what its name says; completions
    that are drawn or cut otherwise than the loss, the reward or the SFT adapters take for granted. ``learned`` is the
    longest answer in tokens of each adapter's training, or of this one; 0 where it is not known.
    """
    phase, objective, reward = config["phase"], config["objective"], config["reward"]
    asked = {"phase.accumulate": phase["accumulate"]} if phase["accumulate"] != 1 else {}
    asked |= {"phase.gradient_clip_val": phase["gradient_clip_val"]} if phase["gradient_clip_val"] else {}
    if asked:  # Lightning refuses them
        given = ", ".join(f"{name}={value}" for name, value in asked.items())
        yield SettingFault(
            f"{given}: in GRPO the module accumulates and clips by itself; leave phase.accumulate=1 and phase.gradient_"
            "clip_val=null, and set phase.batch_size, phase.module.micro_studies and phase.module.max_grad_norm"
        )
    if objective["updates_per_rollout"] <= 1:  # the ratio is taken against the policy that sampled
        yield warning(
            f"objective '{objective['name']}' takes 1 update per rollout: its ratio is always 1 and its clip never "
            "acts; set objective.updates_per_rollout=2 if it should"
        )
    if objective["normaliser"] == "constant" and objective["scale"] != "none":
        yield warning(
            f"objective '{objective['name']}' still divides advantages by the group's std "
            f"(objective.scale={objective['scale']}): Dr. GRPO does not; set objective.scale=none"
        )
    if objective["kl_beta"] != 0 and not config["adapters"]:  # the paper's reference is the SFT policy
        yield warning(
            f"objective.kl_beta={objective['kl_beta']} pulls towards the base model, not towards an SFT policy: "
            "adapters=[] is empty; set 'adapters=[out/<name>/sft/seed0/adapter/best]'"
        )
    sampling = {"top_k": 0, **phase["module"]["sampling"]}
    limit, top_p, top_k = sampling["max_new_tokens"], sampling["top_p"], sampling["top_k"]
    if (top_p < 1 or top_k > 0) and objective.get("correction", "none") == "none":
        yield warning(
            f"completions are drawn with top_p={top_p}, top_k={top_k}, but the ratio is under the whole distribution; "
            "set phase.module.sampling.top_p=1 without a top_k, or an objective with a correction"
        )
    shortest, longest = reward.get("min_length", 0), max(learned.values(), default=0)
    paid = (reward.get("weights") or {}).get("length_penalty", 1.0)  # of a hard reward, not of the members of a mix
    penalty = reward.get("length_penalty", 0.0) * paid
    if shortest > limit and penalty:  # malformed answers do not pay it
        yield warning(
            f"reward.min_length={shortest} tokens cannot be written with phase.module.sampling.max_new_tokens={limit}: "
            "every valid answer pays the length penalty; set reward.min_length below it"
        )
    if 0 < longest < shortest <= limit and penalty:
        yield warning(
            f"reward.min_length={shortest} tokens, but no answer learned from has more than {longest}: a policy that "
            f"writes such answers always pays the length penalty; set reward.min_length={longest} or less, or train "
            "SFT on longer traces"
        )
    for who, n in learned.items():
        if n > limit:
            yield warning(
                f"rollouts end after {limit} tokens, but {who} learned answers of up to {n}: set "
                f"model.max_new_tokens={n} or more"
            )


def precision_faults(precision: object) -> Iterator[SettingFault]:
    """A precision of the trainer, which evaluation and scores would not run in."""
    if str(precision) not in ("32-true", "32"):
        yield SettingFault(
            f"trainer.precision={precision} trains and validates another policy than is evaluated: set "
            "trainer.precision=32-true, and model.dtype=bfloat16 for products in bfloat16 (adapters stay in float32)"
        )


def schedule_faults(n_steps: int, warmup: float) -> Iterator[SettingFault]:
    """A schedule of ``n_steps`` whose warm-up share leaves nothing after it, or is less than a step."""
    rising = round(warmup * n_steps)
    if rising >= n_steps:
        yield SettingFault(
            f"the run has {n_steps} steps and warm-up takes {rising}: the learning rate never reaches phase.lr; "
            "train longer or lower optim.scheduler.warmup"
        )
    if warmup > 0 and rising == 0:
        yield warning(
            f"optim.scheduler.warmup={warmup} of {n_steps} steps is less than one: there is no warm-up; train longer "
            "or raise it"
        )


def label_faults(labels: Sequence[str], masks: Sequence[Sequence[bool]]) -> Iterator[SettingFault]:
    """Labels asked for that no training study is judged on (``masks`` by study); all of them missing is an error."""
    if missing := [label for i, label in enumerate(labels) if not any(mask[i] for mask in masks)]:
        text = f"{len(missing)} of {len(labels)} labels are judged in no training study: {', '.join(missing[:5])}"
        yield SettingFault(f"{text}; set labels= to what data= holds", stops=len(missing) == len(labels))


def learned_faults(answer_tokens: Mapping[str, int], max_new_tokens: int) -> Iterator[SettingFault]:
    """Answers to learn, in tokens by study, of which nothing can be learned, or which could never be written."""
    empty = [study for study, n in answer_tokens.items() if n == 0]
    if empty or not answer_tokens:
        nothing = f"{len(empty)} answers have no assistant token, e.g. {', '.join(empty[:3])}"
        what = nothing if empty else "no answer is given"
        yield SettingFault(f"{what}: the loss would be of nothing; check phase.teacher and its traces")
    if long := [study for study, n in answer_tokens.items() if n > max_new_tokens]:
        longest = max(answer_tokens.values())
        yield SettingFault(
            f"{len(long)} of {len(answer_tokens)} answers exceed model.max_new_tokens={max_new_tokens} "
            f"(longest {longest}), e.g. {', '.join(long[:3])}: set model.max_new_tokens={longest}",
            stops=2 * len(long) > len(answer_tokens),
        )


def policy_faults(
    *,
    attention_mask: Tensor,
    stop_ids: Sequence[int],
    known_ids: Collection[int],
    image_id: int,
    banned_ids: Collection[int],
    context: int,
    logits: Tensor,
    max_new_tokens: int,
) -> Iterator[SettingFault]:
    """A tokenizer or model that pads, stops, samples or sees otherwise than training takes for granted.

    ``attention_mask`` is [B, P]; ``logits`` [2, V] are those of the first answer token under two different images;
    the other values are the model's and its tokenizer's (``policy_facts``).
    """
    if right := int((attention_mask[:, -1] == 0).sum()):  # image tokens would be misaligned without an error
        yield SettingFault(
            f"{right} of {len(attention_mask)} prompts are padded on the right: set the tokenizer's padding_side=left"
        )
    missing = [i for i in stop_ids if i not in known_ids]
    if missing or not stop_ids:  # no answer would ever end
        stops = f"stop ids {missing} are not in the tokenizer" if missing else "the model has no stop id"
        yield SettingFault(
            f"{stops}: set eos_token_id in generation_config.json to ids of this tokenizer (end of turn included)"
        )
    if image_id not in banned_ids:  # features would no longer match tokens
        yield SettingFault(
            f"the image token {image_id} can be sampled: name it in the tokenizer's vocabulary, or ban it"
        )
    length = int(attention_mask.sum(1).max())
    if length + max_new_tokens > context:
        fits, none = f"set model.max_new_tokens={context - length} or less", "choose a shorter prompt= or fewer image"
        yield SettingFault(
            f"the longest prompt ({length} tokens) and max_new_tokens={max_new_tokens} exceed the context of "
            f"{context}: {fits if context > length else f'{none} tokens'}"
        )
    if not float((logits[0] - logits[1]).abs().max()) > 0:  # NaN included
        yield SettingFault(
            "two different images give the same logits: the model is blind; check model.source's projector weights "
            "(a fresh Gemma 3 starts them at zero)"
        )


def policy_facts(policy: Policy, longest_prompt: str) -> dict[str, Any]:
    """What ``policy_faults`` asks of a policy; its logits are computed as training feeds the images."""
    images = _two_images()
    seen = policy.encode(images, [longest_prompt] * 2).to(policy.device)
    with sampling_mode(policy):
        logits = prefill(policy, policy.with_features(seen), 1).logits
    return {
        "attention_mask": policy.encode(images, ["Hi", longest_prompt]).attention_mask,
        "stop_ids": policy.stop_ids,
        "known_ids": set(policy.tokenizer.get_vocab().values()),
        "image_id": policy.base.config.image_token_id,
        "banned_ids": policy.banned_ids,
        "context": policy.encoder.context,
        "logits": logits,
    }


def _two_images() -> list[Image.Image]:
    """A left and a right half in white: what a model that sees cannot take for one another."""
    pixels = np.zeros((256, 256), np.uint8)
    pixels[:, :128] = 255
    return [Image.fromarray(p).convert("RGB") for p in (pixels, pixels[:, ::-1].copy())]


def dropout_rates(policy: Policy) -> dict[str, float]:
    """The dropout of every module by name, and of the attention."""
    rates = {name: module.p for name, module in policy.named_modules() if isinstance(module, torch.nn.Dropout)}
    return rates | {"attention_dropout": getattr(policy.base.config.get_text_config(), "attention_dropout", 0.0)}
