"""Settings that do nothing or corrupt a run: one small check each, all findings listed once before training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from chexreason.data.prompt_tensors import EncodedPrompts
from chexreason.model.generate import sampling_mode
from chexreason.model.kv import prefill
from chexreason.model.policy import Policy


@dataclass(frozen=True)
class Finding:
    """One fault of the settings, with the value, the place and the way out; ``stops`` tells an error from a warning."""

    text: str
    stops: bool = True


def report(findings: Iterable[Finding | None]) -> list[str]:
    """The warnings, to be printed; raises ValueError listing all errors at once, warnings after them."""
    found = [finding for finding in findings if finding is not None]
    errors = [f"  {finding.text}" for finding in found if finding.stops]
    warnings = [finding.text for finding in found if not finding.stops]
    if errors:
        noted = [f"  (warning) {text}" for text in warnings]
        raise ValueError(f"{len(errors)} of the settings would corrupt the run:\n" + "\n".join([*errors, *noted]))
    return warnings


def right_padding(attention_mask: Tensor) -> Finding | None:
    """Prompts [B, P] padded on the right: image tokens would be misaligned without an error."""
    rows = int((attention_mask[:, -1] == 0).sum())
    if not rows:
        return None
    return Finding(
        f"{rows} of {len(attention_mask)} prompts are padded on the right: set the tokenizer's padding_side=left"
    )


def rollout_dropout(rates: Mapping[str, float]) -> Finding | None:
    """Dropout rates by module name, in GRPO: rollout and update would be two distributions."""
    live = {name: rate for name, rate in rates.items() if rate > 0}
    if not live:
        return None
    name, rate = next(iter(live.items()))
    return Finding(f"dropout is on in rollouts ({len(live)} modules, e.g. {rate} in {name}): set adapter.dropout=0")


def unknown_stop_ids(stop_ids: Sequence[int], known_ids: Collection[int]) -> Finding | None:
    """Stop ids the tokenizer does not have: no answer would ever end."""
    missing = [i for i in stop_ids if i not in known_ids]
    if stop_ids and not missing:
        return None
    what = f"stop ids {missing} are not in the tokenizer" if missing else "the model has no stop id"
    return Finding(
        f"{what}: set eos_token_id in generation_config.json to ids of this tokenizer (end of turn included)"
    )


def sampleable_image_token(image_id: int, banned_ids: Collection[int]) -> Finding | None:
    """An image token that may be drawn: features would no longer match tokens."""
    if image_id in banned_ids:
        return None
    return Finding(f"the image token {image_id} can be sampled: name it in the tokenizer's vocabulary, or ban it")


def truncated_prompts(prompt_tokens: int, max_new_tokens: int, context: int) -> Finding | None:
    """The longest prompt and answer do not fit the model's context: something would be cut off."""
    if prompt_tokens + max_new_tokens <= context:
        return None
    left = context - prompt_tokens
    way_out = (
        f"set model.max_new_tokens={left} or less" if left > 0 else "choose a shorter prompt= or fewer image tokens"
    )
    return Finding(
        f"the longest prompt ({prompt_tokens} tokens) and max_new_tokens={max_new_tokens} exceed the context of "
        f"{context}: {way_out}"
    )


def blind(logits: Tensor, other_logits: Tensor) -> Finding | None:
    """Next-token logits of one prompt under two different images: where none differs, the model does not see."""
    if float((logits - other_logits).abs().max()) > 0:
        return None
    return Finding(
        "two different images give the same logits: the model is blind; check model.source's projector weights "
        "(a fresh Gemma 3 starts them at zero)"
    )


def two_images(size: int = 256) -> list[Image.Image]:
    """A left and a right half in white: what a model that sees cannot take for one another."""
    pixels = np.zeros((size, size), np.uint8)
    pixels[:, : size // 2] = 255
    return [Image.fromarray(p).convert("RGB") for p in (pixels, pixels[:, ::-1].copy())]


def first_logits(policy: Policy, prompts: EncodedPrompts) -> tuple[Tensor, Tensor]:
    """Logits [V] of the first answer token of each of two prompts."""
    with sampling_mode(policy):
        logits = prefill(policy, policy.with_features(prompts.to(policy.device)), 1).logits  # as training feeds them
    return logits[0], logits[1]


def nothing_to_learn(answer_tokens: Mapping[str, int]) -> Finding | None:
    """Assistant tokens by study: a mask without any teaches nothing."""
    empty = [study for study, n in answer_tokens.items() if n == 0]
    if answer_tokens and not empty:
        return None
    what = (
        f"{len(empty)} answers have no assistant token, e.g. {', '.join(empty[:3])}" if empty else "no answer is given"
    )
    return Finding(f"{what}: the loss would be of nothing; check phase.teacher and its traces")


def warmup_only(n_steps: int, warmup: float) -> Finding | None:
    """A schedule of ``n_steps`` whose warm-up share leaves nothing after it, or is less than a step."""
    rising = round(warmup * n_steps)
    if rising >= n_steps:
        return Finding(
            f"the run has {n_steps} steps and warm-up takes {rising}: the learning rate never reaches phase.lr; "
            "train longer or lower optim.scheduler.warmup"
        )
    if warmup > 0 and rising == 0:
        text = f"optim.scheduler.warmup={warmup} of {n_steps} steps is less than one: there is no warm-up"
        return Finding(f"{text}; train longer or raise it", stops=False)
    return None


def labels_not_in_data(labels: Sequence[str], judged: Collection[str]) -> Finding | None:
    """Labels asked for that no training study is judged on; all of them missing is an error."""
    missing = [label for label in labels if label not in judged]
    if not missing:
        return None
    text = f"{len(missing)} of {len(labels)} labels are judged in no training study: {', '.join(missing[:5])}"
    return Finding(f"{text}; set labels= to what data= holds", stops=len(missing) == len(labels))


def long_answers(answer_tokens: Mapping[str, int], max_new_tokens: int) -> Finding | None:
    """Answers learnt that could not be written: they would be cut off, and fail, in every evaluation."""
    long = [study for study, n in answer_tokens.items() if n > max_new_tokens]
    if not long:
        return None
    longest = max(answer_tokens.values())
    text = (
        f"{len(long)} of {len(answer_tokens)} answers exceed model.max_new_tokens={max_new_tokens} (longest {longest})"
    )
    return Finding(
        f"{text}, e.g. {', '.join(long[:3])}: set model.max_new_tokens={longest}",
        stops=2 * len(long) > len(answer_tokens),
    )


def idle_clip(objective: str, updates_per_rollout: int) -> Finding | None:
    """One optimiser step a rollout: the ratio is 1 and the clip never acts."""
    if updates_per_rollout > 1:
        return None
    text = f"objective '{objective}' takes 1 update per rollout: its ratio is always 1 and its clip never acts"
    return Finding(f"{text}; set objective.updates_per_rollout=2 if it should", stops=False)


def greedy_rollout(temperature: float) -> Finding | None:
    """Rollouts that are not drawn: the answers of a group are all the same."""
    if temperature > 0:
        return None
    return Finding(f"rollouts at temperature {temperature} give every group one answer: set a temperature above 0")


def checkpointed_prefix(checkpointing: bool) -> Finding | None:
    """Gradient checkpointing in GRPO, which drops the cache that a group shares its prompt by."""
    if not checkpointing:
        return None
    return Finding(
        "model.gradient_checkpointing=true drops the cache by which a group shares its prompt: set it to false, and "
        "lower phase.module.micro_studies, phase.module.group_size or model.max_new_tokens to save memory"
    )


def module_settings(accumulate: int, gradient_clip_val: float | None) -> Finding | None:
    """Accumulation or clipping asked of Lightning in GRPO, whose module does both: Lightning refuses them."""
    asked = {"phase.accumulate": accumulate} if accumulate != 1 else {}
    asked |= {"phase.gradient_clip_val": gradient_clip_val} if gradient_clip_val else {}
    if not asked:
        return None
    given = ", ".join(f"{name}={value}" for name, value in asked.items())
    return Finding(
        f"{given}: in GRPO the module accumulates and clips by itself; leave phase.accumulate=1 and phase.gradient_"
        "clip_val=null, and set phase.batch_size, phase.module.micro_studies and phase.module.max_grad_norm"
    )


def unreachable_length(min_length: int, penalty: float, max_new_tokens: int) -> Finding | None:
    """The hard reward asking for longer answers than may be written: valid ones pay for it, malformed ones do not."""
    if min_length <= max_new_tokens or not penalty:
        return None
    limit = f"phase.module.sampling.max_new_tokens={max_new_tokens}"
    text = f"reward.min_length={min_length} tokens cannot be written with {limit}"
    return Finding(f"{text}: every valid answer pays the length penalty; set reward.min_length below it", stops=False)


def scaled_dr_grpo(objective: str, normaliser: str, scale: str) -> Finding | None:
    """Dr. GRPO by its constant divisor, with the division by the group's standard deviation that it drops."""
    if normaliser != "constant" or scale == "none":
        return None
    text = f"objective '{objective}' still divides advantages by the group's std (objective.scale={scale})"
    return Finding(f"{text}: Dr. GRPO does not; set objective.scale=none", stops=False)


def uncorrected_truncation(top_p: float, top_k: int, corrected: bool) -> Finding | None:
    """Sampling from a cut-off distribution whose ratio is taken under the whole one."""
    if corrected or (top_p >= 1 and top_k == 0):
        return None
    text = f"completions are drawn with top_p={top_p}, top_k={top_k}, but the ratio is under the whole distribution"
    return Finding(f"{text}; set phase.module.sampling.top_p=1, or an objective with a correction", stops=False)


def base_as_reference(kl_beta: float, adapters: Sequence[str]) -> Finding | None:
    """A KL term towards the untuned base, where the paper's reference is the SFT policy."""
    if kl_beta == 0 or adapters:
        return None
    text = f"objective.kl_beta={kl_beta} pulls towards the base model, not towards an SFT policy: adapters=[] is empty"
    return Finding(f"{text}; set 'adapters=[out/<name>/sft/seed0/adapter/best]'", stops=False)


def short_completions(max_new_tokens: int, answer_tokens: int, adapter: str) -> Finding | None:
    """Rollouts cut off before the end of the answers that the SFT adapter has learned to write."""
    if max_new_tokens >= answer_tokens:
        return None
    text = f"rollouts end after {max_new_tokens} tokens, but {adapter} learned answers of up to {answer_tokens}"
    return Finding(f"{text}: set model.max_new_tokens={answer_tokens} or more", stops=False)
