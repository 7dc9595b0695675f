"""A policy with an adapter that does something, and its answers beside those of the library."""

from __future__ import annotations

import pytest
import torch

from chexreason.data.batches import EncodedPrompts
from chexreason.model.adapters import attach_lora
from chexreason.model.generate import Sampled, Sampling, sample
from chexreason.model.policy import Policy


def with_lora(policy: Policy, seed: int = 0, *, r: int = 4, alpha: int = 8, dropout: float = 0.0) -> Policy:
    """The policy with a fresh adapter; its B is zero at first, which would hide mistakes, and so is filled."""
    torch.manual_seed(seed)
    attach_lora(policy, r=r, alpha=alpha, dropout=dropout)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return policy


def narrowed(policy: Policy, window: int | None) -> Policy:
    """The policy with another sliding window; the packaged one, 512, is wider than any prompt here."""
    if window is not None and policy.base.config.model_type != "gemma3":
        pytest.skip("no sliding window")
    if window is not None:
        policy.base.config.text_config.sliding_window = window
        for module in policy.base.modules():
            if getattr(module, "sliding_window", None) is not None:
                module.sliding_window = window
    return policy


def greedy_is_generate(policy: Policy, prompts: EncodedPrompts, n: int) -> Sampled:
    """The greedy answers of ``n`` tokens, after a comparison with those of the model's own ``generate``."""
    ours = sample(policy, policy.with_features(prompts), Sampling(n, temperature=0.0))
    extra = policy.family.sequence_inputs(prompts.type_ids)
    if prompts.grid is not None:
        extra = {"mm_token_type_ids": prompts.type_ids}
    theirs = policy.base.generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        max_new_tokens=n,
        do_sample=False,
        suppress_tokens=policy.banned_ids,
        eos_token_id=policy.stop_ids,
        pad_token_id=policy.pad_id,
        **policy.family.image_inputs(prompts),
        **extra,
    )[:, prompts.input_ids.shape[1] :]
    width = min(ours.ids.shape[1], theirs.shape[1])
    mask = ours.mask[:, :width]
    assert torch.equal(ours.ids[:, :width] * mask, theirs[:, :width] * mask)
    return ours
