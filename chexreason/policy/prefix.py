"""The shared prefix: image and prompt run once a study; all completions of its group use their keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from chexreason.data.encoded import EncodedPrompts
from chexreason.policy.policy import Policy


@dataclass
class Prefix:
    """A prefilled prompt batch expanded to N = B * G rows, row ``b * G + g`` being completion g of study b.

    ``cache`` holds [N] rows of keys and values, ``mask`` is [N, P], ``next_position`` [N] is where the completion
    starts and ``state`` [N, H] is what ``head`` predicts its first token from.
    """

    cache: DynamicCache
    mask: Tensor
    next_position: Tensor
    state: Tensor
    head: nn.Module

    @property
    def logits(self) -> Tensor:
        """Of the first token, [N, V]."""
        return self.head(self.state)


def prefill(policy: Policy, prompts: EncodedPrompts, group_size: int) -> Prefix:
    """Run image and prompt once a study and expand the result to ``group_size`` rows; gradients flow through it.

    Excludes gradient checkpointing, which would drop the cache silently: raises RuntimeError when it is on.
    """
    if getattr(policy.base, "is_gradient_checkpointing", False) and policy.model.training:
        raise RuntimeError("a shared prefix needs the cache: set model.gradient_checkpointing=false")
    positions, following = policy.family.positions(policy.base, prompts)
    output = policy.base.model(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        position_ids=positions,
        past_key_values=DynamicCache(),  # full layers: a sliding window is the mask's business, rows stay aligned
        use_cache=True,
        **policy.family.image_inputs(prompts),
        **policy.family.sequence_inputs(prompts.type_ids),
    )
    cache = output.past_key_values
    if group_size > 1:
        cache.batch_repeat_interleave(group_size)
    return Prefix(
        cache=cache,
        mask=prompts.attention_mask.repeat_interleave(group_size, 0),
        next_position=following.repeat_interleave(group_size),
        state=output.last_hidden_state[:, -1].repeat_interleave(group_size, 0),
        head=policy.base.get_output_embeddings(),
    )


def advance(policy: Policy, prefix: Prefix, ids: Tensor, mask: Tensor | None, next_position: Tensor) -> Tensor:
    """Last hidden states [N, S, H] of tokens ``ids`` [N, S] that follow the prefix; the cache grows by S.

    ``mask`` [N, total] covers everything in the cache after this call; under ``one_token_a_row`` it is bool
    [N, 1, 1, >= total], or None where nothing is padded.
    """
    positions = policy.family.continue_positions(next_position, ids.shape[1])
    output = policy.base.model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=prefix.cache, use_cache=True
    )
    return output.last_hidden_state  # [N, S, H]


def extend(policy: Policy, prefix: Prefix, ids: Tensor, mask: Tensor | None, next_position: Tensor) -> Tensor:
    """Logits [N, S, V] of tokens that follow the prefix, as ``advance`` takes them."""
    return prefix.head(advance(policy, prefix, ids, mask, next_position))


def keep_rows(prefix: Prefix, rows: Tensor) -> None:
    """Drop all but ``rows`` from the prefix: finished completions leave the batch."""
    prefix.cache.batch_select_indices(rows)
    prefix.mask = prefix.mask[rows]
    prefix.next_position = prefix.next_position[rows]


def ones_like_rows(mask: Tensor, width: int) -> Tensor:
    """``mask`` [N, P] with ``width`` columns of ones appended."""
    return torch.cat([mask, mask.new_ones(mask.shape[0], width)], 1)
