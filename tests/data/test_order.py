"""Length grouping: a permutation inside each update, equal work for the ranks, less padding, nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chexreason.data.batches import length_grouped

LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=40)


def padded_share(order: Tensor, lengths: Tensor, batch_size: int, window: int) -> float:
    """Share of padding among the tokens of batches cut from ``order``; a batch never spans two windows."""
    batches = [batch for part in order.split(window) for batch in part.split(batch_size)]
    tokens = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1 - int(lengths[order].sum()) / max(tokens, 1)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(0, 5))
def test_each_update_keeps_its_samples(values, window, seed):
    lengths = torch.tensor(values)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    before = order.clone()
    grouped = length_grouped(order, lengths, window)
    assert torch.equal(order, before)
    for start in range(0, len(values), window):
        one, other = order[start : start + window].tolist(), grouped[start : start + window].tolist()
        assert sorted(one) == sorted(other)
        assert [values[i] for i in other] == sorted(values[i] for i in one)
    assert torch.equal(grouped, length_grouped(order, lengths, window))


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 4))
def test_padding_of_full_batches_never_grows(values, batch_size, accumulate):
    values = values[: len(values) // batch_size * batch_size] or [0] * batch_size  # no promise of a batch not full
    lengths, order = torch.tensor(values, dtype=torch.long), torch.arange(len(values))
    window = batch_size * accumulate
    grouped = length_grouped(order, lengths, window)
    assert padded_share(grouped, lengths, batch_size, window) <= padded_share(order, lengths, batch_size, window) + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=4, max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_ranks_differ_by_the_longest_sample_of_an_update_at_most(values, world, share):
    lengths = torch.tensor(values)
    order = torch.arange(len(values) // world * world)
    grouped = length_grouped(order, lengths, share * world)
    for update in grouped.split(share * world):
        work = [int(lengths[update[rank::world]].sum()) for rank in range(world)]
        assert max(work) - min(work) <= int(lengths[update].max())
        assert {len(update[rank::world]) for rank in range(world)} == {len(update) // world}


def test_equal_lengths_keep_their_order():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(length_grouped(order, torch.zeros(20), 8), order)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window=0"):
        length_grouped(torch.arange(3), torch.ones(3), 0)
