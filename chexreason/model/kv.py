"""The shared prefix: image and prompt run once a study; all completions of its group use their keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer

from chexreason.data.batches import EncodedPrompts
from chexreason.model.policy import Policy


@dataclass
class Prefix:
    """A prefilled prompt batch expanded to N = B * G rows, row ``b * G + g`` being completion g of study b.

    ``cache`` holds [N] rows of keys and values, ``mask`` is [N, P], ``next_position`` [N] is where the next token of
    the completion stands and ``state`` [N, H] is what ``head`` predicts its first token from.
    """

    cache: DynamicCache
    mask: Tensor
    next_position: Tensor
    state: Tensor
    head: nn.Module

    @property
    def logits(self) -> Tensor:
        """The logits of the first token, [N, V]."""
        return self.head(self.state)

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all but ``rows``: finished completions leave the batch."""
        self.cache.batch_select_indices(rows)
        self.mask, self.next_position = self.mask[rows], self.next_position[rows]

    def make_room(self, room: int) -> None:
        """Give every layer of the cache space for ``room`` further tokens."""
        self.cache.layers = [RoomyLayer(layer, room) for layer in self.cache.layers]

    def visible(self, room: int) -> Tensor:
        """The columns a row may see, bool [N, 1, 1, P + room]: its prompt, and ``room`` tokens of the completion."""
        after = self.mask.new_ones(self.mask.shape[0], room)
        return torch.cat([self.mask, after], 1).bool()[:, None, None]


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
        cache=DynamicCache(),  # full layers: the mask applies a sliding window, so rows stay aligned
        use_cache=True,
        **policy.family.image_inputs(prompts),
        **policy.family.sequence_inputs(prompts.type_ids),
    )
    cache = output.cache
    if group_size > 1:
        cache.batch_repeat_interleave(group_size)
    return Prefix(
        cache=cache,
        mask=prompts.attention_mask.repeat_interleave(group_size, 0),
        next_position=following.repeat_interleave(group_size),
        state=output.last_hidden_state[:, -1].repeat_interleave(group_size, 0),
        head=policy.base.get_output_embeddings(),
    )


def advance(policy: Policy, prefix: Prefix, ids: Tensor, mask: Tensor | None, steps: Tensor | None = None) -> Tensor:
    """Last hidden states [N, S, H] of tokens ``ids`` [N, S] that follow the prefix, which grows by S.

    ``mask`` [N, total] covers everything in the cache after this call; ``cached_attention`` takes other forms of it.
    ``steps`` [N, S] are the tokens' places behind the prefix, from 0, where they are not in a row.
    """
    positions = policy.family.continue_positions(prefix.next_position, ids.shape[1])
    if steps is not None:
        positions = positions.gather(-1, steps.expand(*positions.shape[:-1], -1))
    prefix.next_position = prefix.next_position + ids.shape[1]
    output = policy.base.model(
        input_ids=ids, attention_mask=mask, position_ids=positions, cache=prefix.cache, use_cache=True
    )
    return output.last_hidden_state  # [N, S, H]


def next_logits(policy: Policy, prefix: Prefix, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Logits [N, V] after one more token of each row, ``ids`` [N]; ``mask`` as ``advance`` takes it."""
    with _attending_to_cache(policy):
        return prefix.head(advance(policy, prefix, ids[:, None], mask))[:, -1]


def advance_branches(policy: Policy, prefix: Prefix, ids: Tensor, branch: Tensor) -> Tensor:
    """Last hidden states [N, Q, H] of tokens ``ids`` [N, Q], of which several may follow the same one.

    ``branch`` [N, Q, Q] is True at the tokens of a token's own branch, itself included. Nothing can follow them.
    """
    depth, after = branch.sum(-1), prefix.mask.flip(-1).cumsum(-1).flip(-1)  # [N, Q] from 1; [N, P], 1 at its last
    behind = (depth[:, :, None] - 1 + after[:, None]).masked_fill(~prefix.mask[:, None].bool(), FAR)
    within = (depth[:, :, None] - depth[:, None]).masked_fill(~branch, FAR)
    with _attending_to_cache(policy):
        return advance(policy, prefix, ids, torch.cat([behind, within], -1)[:, None], depth - 1)


class RoomyLayer(DynamicLayer):
    """One layer's keys and values [N, H, S, D] with space for ``room`` further tokens.

    ``DynamicLayer`` copies everything it holds at every token; this copies when rows leave, and else writes one column.
    For sampling only: writing in place would break a gradient. Raises IndexError once the room is used up.
    """

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._length = layer.keys.shape[-2]
        self._keys, self._values = (nn.functional.pad(states, (0, 0, 0, room)) for states in (layer.keys, layer.values))
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, end = self._length, self._length + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            raise IndexError(f"{end} tokens do not fit a cache made for {self._keys.shape[-2]}")
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = self._keys[:, :, : self._length], self._values[:, :, : self._length]


CACHED = "cached"  # in transformers' table of attentions; it has no mask function there, so that no mask is made
FAR = 2**30  # tokens back: out of every window, and more than any context


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention [N, Q, H, D] of new tokens, ``query`` [N, H, Q, D], to all S tokens of the cache, themselves included.

    ``key`` and ``value`` are [N, K, S, D]; the H / K query heads of a key head stand as its rows, where transformers
    copies the key head for each, or takes a slow path. For one new token ``attention_mask`` is bool [N, 1, 1, >= S],
    True where a column may be seen, or None; a sliding window then counts columns, as transformers' masks do: it is a
    slice. For several it is how many tokens a column lies back [N, 1, Q, S], FAR where it may not be seen, and a window
    counts these. Raises ValueError for several tokens without, among which this would not be causal.
    """
    n, heads, length, width = query.shape
    first, groups = 0, heads // key.shape[1]
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        attention_mask = (attention_mask < (sliding_window or FAR)).repeat(1, 1, groups, 1)
    elif length != 1:
        raise ValueError(f"{length} tokens a row, and no count of how far back each column lies for them")
    else:
        first = max(0, key.shape[2] - sliding_window) if sliding_window else 0
        attention_mask = None if attention_mask is None else attention_mask[..., first : key.shape[2]]
    mixed = nn.functional.scaled_dot_product_attention(
        query.reshape(n, key.shape[1], groups * length, width),
        key[:, :, first:],
        value[:, :, first:],
        attn_mask=attention_mask,
        scale=scaling,
    )
    return mixed.reshape(n, heads, length, width).transpose(1, 2), None


AttentionInterface.register(CACHED, cached_attention)


@contextmanager
def _attending_to_cache(policy: Policy) -> Iterator[None]:
    """The language model attends by ``cached_attention``, and then again as before."""
    config = policy.base.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = CACHED
    try:
        yield
    finally:
        config._attn_implementation = before
