"""The attention of one new token a row, against the textbook; sampling goes through it and through nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from chexreason.model.generate import Sampling, sample
from chexreason.model.kv import CACHED, cached_attention, next_logits, prefill

N, HEADS, KEY_HEADS, SEEN, WIDTH, ROOM = 3, 6, 2, 11, 8, 15


@pytest.mark.parametrize("window", [None, 4, 11, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_it_is_softmax_attention_with_the_key_heads_shared(window, padded):
    torch.manual_seed(0)
    query = torch.randn(N, HEADS, 1, WIDTH)
    key, value = (torch.randn(N, KEY_HEADS, ROOM, WIDTH)[:, :, :SEEN] for _ in range(2))  # as a roomy cache shows them
    visible = torch.ones(N, 1, 1, ROOM, dtype=torch.bool)
    if padded:
        visible[1, ..., :8] = False  # also inside the window of 4
    got, nothing = cached_attention(
        nn.Identity(), query, key, value, visible if padded else None, scaling=0.3, sliding_window=window
    )
    assert nothing is None
    for n in range(N):
        for head in range(HEADS):
            keys, values = (part[n, head // (HEADS // KEY_HEADS)] for part in (key, value))
            scores = 0.3 * keys @ query[n, head, 0]
            scores[~visible[n, 0, 0, :SEEN]] = float("-inf")
            if window is not None:
                scores[: max(0, SEEN - window)] = float("-inf")
            torch.testing.assert_close(got[n, 0, head], scores.softmax(-1) @ values, atol=1e-6, rtol=0)


def test_several_tokens_a_row_are_refused():
    query, key = torch.randn(N, HEADS, 2, WIDTH), torch.randn(N, KEY_HEADS, SEEN, WIDTH)
    with pytest.raises(ValueError, match="2 tokens a row"):
        cached_attention(nn.Identity(), query, key, key, None, scaling=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("texts", [["Describe the radiograph.", "Hi"], ["Hi", "Hi"]], ids=["padded", "equal lengths"])
def test_sampling_attends_by_it_at_every_layer_of_every_token(policy, images, monkeypatch, texts):
    masks, config = [], policy.base.config.get_text_config()

    def spy(module, query, key, value, attention_mask, **given):
        masks.append(attention_mask)
        return cached_attention(module, query, key, value, attention_mask, **given)

    monkeypatch.setitem(AttentionInterface._global_mapping, CACHED, spy)
    prompts = policy.encode(images[:2], texts)
    drawn = sample(policy, prompts, Sampling(5, temperature=0.0), group_size=2)
    assert len(masks) == config.num_hidden_layers * (drawn.ids.shape[1] - 1) > 0
    assert all((mask is None) == (texts[0] == texts[1]) for mask in masks)
    assert config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_a_full_cache_is_refused_and_the_models_own_attention_is_back(policy, images):
    prefix = prefill(policy, policy.encode(images[:1], ["Hi"]), group_size=2)
    prefix.make_room(1)
    next_logits(policy, prefix, torch.tensor([5, 6]), None)
    with pytest.raises(IndexError, match="do not fit a cache made for"):
        next_logits(policy, prefix, torch.tensor([5, 6]), None)
    assert policy.base.config.get_text_config()._attn_implementation == "sdpa"
