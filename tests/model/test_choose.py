"""Drawing a token: of which distribution, by whose random numbers, and what a flat row among others changes."""

from __future__ import annotations

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from chexreason.model.generate import NUCLEUS, Sampling, draw_ids, key_seed, row_uniforms

SAMPLING = Sampling(1, 1.0, 0.95)
WIDE = 2 * NUCLEUS[1]


def test_only_flat_rows_are_sorted_and_no_row_sees_its_neighbours(monkeypatch):
    torch.manual_seed(0)
    scale = torch.tensor([[6.0], [0.1], [8.0]])  # the second row needs more ids than are looked at first
    logp = (torch.randn(3, WIDE) * scale).log_softmax(-1)
    uniform = torch.tensor([0.4, 0.999, 0.9], dtype=torch.float64)
    topk, seen = torch.Tensor.topk, []
    monkeypatch.setattr(torch.Tensor, "topk", lambda rows, k: (seen.append((len(rows), k)), topk(rows, k))[1])
    together = draw_ids(logp, uniform, SAMPLING)
    assert seen == [(3, NUCLEUS[0]), (1, NUCLEUS[1]), (1, WIDE)]
    alone = [draw_ids(logp[row : row + 1], uniform[row : row + 1], SAMPLING) for row in range(3)]
    assert torch.equal(together[0], torch.cat([ids for ids, _ in alone]))
    assert torch.equal(together[1], torch.cat([drawn for _, drawn in alone]))


def test_a_flat_row_draws_beyond_the_ids_looked_at_first():
    logp = torch.full((1, WIDE), 1.0).log_softmax(-1)
    _, drawn = draw_ids(logp, torch.tensor([0.9], dtype=torch.float64), Sampling(1, 1.0, 0.5))
    torch.testing.assert_close(drawn.exp(), torch.tensor([2 / WIDE]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("top_p", "top_k"), [(1.0, 0), (0.72, 0), (1.0, 2), (0.95, 3), (0.55, 4), (0.93, 7), (0.31, 99)]
)
def test_ids_are_drawn_from_the_distribution_that_transformers_leaves(top_p, top_k, ties):
    """Its warpers in its order. Of ids that are equally likely either may be cut, so these are compared sorted."""
    warpers = [TemperatureLogitsWarper(0.8), *[TopKLogitsWarper(k) for k in [top_k] if k], TopPLogitsWarper(top_p)]
    torch.manual_seed(0)
    for _ in range(20):
        logits = torch.randn(1, 10) if not ties else torch.randint(-2, 2, (1, 10)).float()
        scores = logits
        for warp in warpers:
            scores = warp(None, scores)
        expected, n = scores.softmax(-1)[0], 20_000
        logp = (logits / 0.8).log_softmax(-1)
        ids, drawn = draw_ids(logp.expand(n, 10), (torch.arange(n) + 0.5) / n, Sampling(1, 0.8, top_p, top_k))
        found = torch.bincount(ids, minlength=10) / n
        logged = torch.zeros(10).index_put_((ids,), drawn.exp())  # of the distribution drawn from
        if ties:
            expected, found, logged = (probs.sort().values for probs in (expected, found, logged))
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
        torch.testing.assert_close(logged, expected, atol=1e-5, rtol=0)


def test_looking_at_the_most_likely_ids_first_changes_nothing(monkeypatch):
    torch.manual_seed(0)
    logp = (torch.randn(64, 2000) * torch.linspace(0.5, 6, 64)[:, None]).log_softmax(-1)  # from flat to peaked
    uniform = torch.rand(64, dtype=torch.float64)
    peaked, sampling = slice(40, None), Sampling(1, 0.8, 0.9)
    whole = draw_ids(logp, uniform, sampling)  # flat rows need every id
    few = draw_ids(logp[peaked], uniform[peaked], sampling)
    monkeypatch.setattr("chexreason.model.generate.NUCLEUS", (5000,))
    every = draw_ids(logp, uniform, sampling)
    assert torch.equal(whole[0], every[0])
    assert torch.equal(few[0], every[0][peaked])
    torch.testing.assert_close(few[1], every[1][peaked], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "sampling", [Sampling(1), Sampling(1, top_p=0.99), Sampling(1, top_k=3), Sampling(1, top_k=299)]
)
def test_a_banned_id_is_not_drawn_at_either_end(sampling):
    banned = torch.tensor([0, 5, 299])
    logp = torch.zeros(2, 300).log_softmax(-1).index_fill(-1, banned, float("-inf"))
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    ids, drawn = draw_ids(logp, ends, sampling)
    assert not torch.isin(ids, banned).any()
    assert drawn.isfinite().all()
    if sampling == Sampling(1):
        assert ids.tolist() == [1, 298]
        torch.testing.assert_close(drawn.exp(), torch.full((2,), 1 / 297))


def test_row_uniforms_depend_on_the_key_alone():
    keys = [(0, 1, "s", 0), (0, 1, "s", 1)]
    rows = row_uniforms(keys, 5)
    assert torch.equal(rows[1:], row_uniforms(keys[1:], 5))
    assert not torch.equal(rows[0], rows[1])


def test_dropout_masks_differ_between_batches_and_ranks():
    keys = [(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)]
    assert len({key_seed(key) for key in keys}) == len(keys)
    assert key_seed((0, 1, 2)) == key_seed((0, 1, 2))
