"""Settings that do nothing or corrupt a run: one table of checks over plain values, a row a fault with its way out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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


def _faults(rows: Iterable[tuple[bool, str]], *, stops: bool = True) -> list[SettingFault]:
    """The rows of a table that hold: each says whether there is a fault, and what to say of it."""
    return [SettingFault(text, stops) for wrong, text in rows if wrong]


def rollout_faults(
    *, group_size: int, temperature: float, checkpointing: bool, dropout: Mapping[str, float]
) -> list[SettingFault]:
    """What makes a GRPO rollout useless or another distribution than the update's; ``dropout`` by module name."""
    live = {name: rate for name, rate in dropout.items() if rate > 0}
    example = next((f"{rate} in {name}" for name, rate in live.items()), "")
    return _faults(
        [
            (
                bool(live),
                f"dropout is on in rollouts ({len(live)} modules, e.g. {example}): set adapter.dropout=0, or rollout "
                "and update disagree",
            ),
            (
                temperature <= 0,
                f"rollouts at phase.module.sampling.temperature={temperature} give every group one answer: set a "
                "temperature above 0",
            ),
            (group_size < 2, f"phase.module.group_size={group_size}: a group of one has no advantage; use 2 or more"),
            (
                checkpointing,
                "gradient checkpointing drops the cache by which a group shares its prompt: set "
                "model.gradient_checkpointing=false, and lower phase.module.micro_studies, phase.module.group_size or "
                "model.max_new_tokens to save memory",
            ),
        ]
    )


def objective_faults(
    name: str, *, updates_per_rollout: int, normaliser: str, scale: str, kl_beta: float, adapters: Sequence[str]
) -> list[SettingFault]:
    """An objective of which a part does nothing, or is not what its name says."""
    return _faults(
        [
            (  # the ratio is taken against the policy that sampled
                updates_per_rollout <= 1,
                f"objective '{name}' takes 1 update per rollout: its ratio is always 1 and its clip never acts; set "
                "objective.updates_per_rollout=2 if it should",
            ),
            (
                normaliser == "constant" and scale != "none",
                f"objective '{name}' still divides advantages by the group's std (objective.scale={scale}): Dr. GRPO "
                "does not; set objective.scale=none",
            ),
            (  # the paper's reference is the SFT policy
                kl_beta != 0 and not adapters,
                f"objective.kl_beta={kl_beta} pulls towards the base model, not towards an SFT policy: adapters=[] is "
                "empty; set 'adapters=[out/<name>/sft/seed0/adapter/best]'",
            ),
        ],
        stops=False,
    )


def completion_faults(
    *,
    max_new_tokens: int,
    top_p: float,
    top_k: int,
    corrected: bool,
    min_length: int,
    length_penalty: float,
    learned: Mapping[str, int],
) -> list[SettingFault]:
    """Completions that are drawn or cut otherwise than the loss, the reward or the SFT adapters take for granted.

    ``corrected`` tells an objective that corrects for truncated sampling, ``learned`` is the longest answer in tokens
    of each adapter's training, or of this one; 0 where it is not known.
    """
    short, longest = {who: n for who, n in learned.items() if n > max_new_tokens}, max(learned.values(), default=0)
    rows = [
        (
            (top_p < 1 or top_k > 0) and not corrected,
            f"completions are drawn with top_p={top_p}, top_k={top_k}, but the ratio is under the whole distribution; "
            "set phase.module.sampling.top_p=1 without a top_k, or an objective with a correction",
        ),
        (  # malformed answers do not pay it
            min_length > max_new_tokens and bool(length_penalty),
            f"reward.min_length={min_length} tokens cannot be written with "
            f"phase.module.sampling.max_new_tokens={max_new_tokens}: every valid answer pays the length penalty; set "
            "reward.min_length below it",
        ),
        (
            0 < longest < min_length <= max_new_tokens and bool(length_penalty),
            f"reward.min_length={min_length} tokens, but no answer learned from has more than {longest}: a policy that "
            f"writes such answers always pays the length penalty; set reward.min_length={longest} or less, or train "
            "SFT on longer traces",
        ),
    ]
    for who, n in short.items():
        text = f"rollouts end after {max_new_tokens} tokens, but {who} learned answers of up to {n}: set "
        rows.append((True, f"{text}model.max_new_tokens={n} or more"))
    return _faults(rows, stops=False)


def precision_faults(precision: object) -> list[SettingFault]:
    """A precision of the trainer, which evaluation and scores would not run in."""
    text = (
        f"trainer.precision={precision} trains and validates another policy than is evaluated: set "
        "trainer.precision=32-true, and model.dtype=bfloat16 for products in bfloat16 (adapters stay in float32)"
    )
    return _faults([(str(precision) not in ("32-true", "32"), text)])


def trainer_faults(accumulate: int, gradient_clip_val: float | None) -> list[SettingFault]:
    """Accumulation or clipping asked of Lightning in GRPO, whose module does both: Lightning refuses them."""
    asked = {"phase.accumulate": accumulate} if accumulate != 1 else {}
    asked |= {"phase.gradient_clip_val": gradient_clip_val} if gradient_clip_val else {}
    given = ", ".join(f"{name}={value}" for name, value in asked.items())
    text = (
        f"{given}: in GRPO the module accumulates and clips by itself; leave phase.accumulate=1 and phase.gradient_"
        "clip_val=null, and set phase.batch_size, phase.module.micro_studies and phase.module.max_grad_norm"
    )
    return _faults([(bool(asked), text)])


def schedule_faults(n_steps: int, warmup: float) -> list[SettingFault]:
    """A schedule of ``n_steps`` whose warm-up share leaves nothing after it, or is less than a step."""
    rising = round(warmup * n_steps)
    never = (
        f"the run has {n_steps} steps and warm-up takes {rising}: the learning rate never reaches phase.lr; "
        "train longer or lower optim.scheduler.warmup"
    )
    none = f"optim.scheduler.warmup={warmup} of {n_steps} steps is less than one: there is no warm-up; train longer or "
    none += "raise it"
    return _faults([(rising >= n_steps, never)]) + _faults([(warmup > 0 and rising == 0, none)], stops=False)


def label_faults(labels: Sequence[str], masks: Sequence[Sequence[bool]]) -> list[SettingFault]:
    """Labels asked for that no training study is judged on (``masks`` by study); all of them missing is an error."""
    missing = [label for i, label in enumerate(labels) if not any(mask[i] for mask in masks)]
    text = f"{len(missing)} of {len(labels)} labels are judged in no training study: {', '.join(missing[:5])}"
    return _faults([(bool(missing), f"{text}; set labels= to what data= holds")], stops=len(missing) == len(labels))


def learned_faults(answer_tokens: Mapping[str, int], max_new_tokens: int) -> list[SettingFault]:
    """Answers to learn, in tokens by study, of which nothing can be learned, or which could never be written."""
    if not answer_tokens:
        return [SettingFault("no answer is given: the loss would be of nothing; check phase.teacher and its traces")]
    empty = [study for study, n in answer_tokens.items() if n == 0]
    nothing = f"{len(empty)} answers have no assistant token, e.g. {', '.join(empty[:3])}: the loss would be of nothing"
    long, longest = [study for study, n in answer_tokens.items() if n > max_new_tokens], max(answer_tokens.values())
    cut = (
        f"{len(long)} of {len(answer_tokens)} answers exceed model.max_new_tokens={max_new_tokens} "
        f"(longest {longest}), e.g. {', '.join(long[:3])}: set model.max_new_tokens={longest}"
    )
    return _faults([(bool(empty), f"{nothing}; check phase.teacher and its traces")]) + _faults(
        [(bool(long), cut)], stops=2 * len(long) > len(answer_tokens)
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
) -> list[SettingFault]:
    """A tokenizer or model that pads, stops, samples or sees otherwise than training takes for granted.

    ``attention_mask`` is [B, P]; ``logits`` [2, V] are those of the first answer token under two different images;
    the other values are the model's and its tokenizer's (``policy_facts``).
    """
    right, length = int((attention_mask[:, -1] == 0).sum()), int(attention_mask.sum(1).max())
    missing, left = [i for i in stop_ids if i not in known_ids], context - length
    stops = f"stop ids {missing} are not in the tokenizer" if missing else "the model has no stop id"
    shorter = (
        f"set model.max_new_tokens={left} or less" if left > 0 else "choose a shorter prompt= or fewer image tokens"
    )
    return _faults(
        [
            (  # image tokens would be misaligned without an error
                right > 0,
                f"{right} of {len(attention_mask)} prompts are padded on the right: set the tokenizer's "
                "padding_side=left",
            ),
            (  # no answer would ever end
                bool(missing) or not stop_ids,
                f"{stops}: set eos_token_id in generation_config.json to ids of this tokenizer (end of turn included)",
            ),
            (  # features would no longer match tokens
                image_id not in banned_ids,
                f"the image token {image_id} can be sampled: name it in the tokenizer's vocabulary, or ban it",
            ),
            (
                length + max_new_tokens > context,
                f"the longest prompt ({length} tokens) and max_new_tokens={max_new_tokens} exceed the context of "
                f"{context}: {shorter}",
            ),
            (
                not float((logits[0] - logits[1]).abs().max()) > 0,  # NaN included
                "two different images give the same logits: the model is blind; check model.source's projector weights "
                "(a fresh Gemma 3 starts them at zero)",
            ),
        ]
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
