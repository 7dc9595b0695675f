"""One new token a row: attention that copies no key head and needs no new mask at each token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from chexreason.policy.policy import Policy

NAME = "one_token"  # in transformers' table of attentions; it has no mask function there, so that no mask is made


def one_token_attention(
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
    """Attention [N, 1, H, D] of one new token a row, ``query`` [N, H, 1, D], to all S tokens of the cache.

    ``key`` and ``value`` are [N, K, S, D]; the H / K query heads of a key head stand as its rows, where transformers
    copies the key head for each, or takes a slow path. ``attention_mask`` is bool [N, 1, 1, >= S], True where a column
    may be seen, or None. A sliding window counts columns, as transformers' masks do: it is a slice. Raises ValueError
    for several tokens a row, among which this would not be causal.
    """
    n, heads, length, width = query.shape
    if length != 1:
        raise ValueError(f"{length} tokens a row: this attention is for one")
    first = max(0, key.shape[2] - sliding_window) if sliding_window else 0
    if attention_mask is not None:
        attention_mask = attention_mask[..., first : key.shape[2]]
    mixed = nn.functional.scaled_dot_product_attention(
        query.view(n, key.shape[1], -1, width),
        key[:, :, first:],
        value[:, :, first:],
        attn_mask=attention_mask,
        scale=scaling,
    )
    return mixed.reshape(n, 1, heads, width), None


AttentionInterface.register(NAME, one_token_attention)


@contextmanager
def one_token_a_row(policy: Policy) -> Iterator[None]:
    """The language model attends by ``one_token_attention``, and then again as before."""
    config = policy.base.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
