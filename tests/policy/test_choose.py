"""Drawing a token where some rows are flat: they are sorted, their neighbours are not, and nobody draws otherwise."""

from __future__ import annotations

import torch

from chexreason.policy.generate import NUCLEUS, Sampling, choose

SAMPLING = Sampling(1, 1.0, 0.95)
WIDE = 2 * NUCLEUS[1]


def test_only_flat_rows_are_sorted_and_no_row_sees_its_neighbours(monkeypatch):
    torch.manual_seed(0)
    scale = torch.tensor([[6.0], [0.1], [8.0]])  # the second row needs more ids than are looked at first
    logp = (torch.randn(3, WIDE) * scale).log_softmax(-1)
    uniform = torch.tensor([0.4, 0.999, 0.9], dtype=torch.float64)
    topk, seen = torch.Tensor.topk, []
    monkeypatch.setattr(torch.Tensor, "topk", lambda rows, k: (seen.append((len(rows), k)), topk(rows, k))[1])
    together = choose(logp, uniform, SAMPLING)
    assert seen == [(3, NUCLEUS[0]), (1, NUCLEUS[1]), (1, WIDE)]
    alone = [choose(logp[row : row + 1], uniform[row : row + 1], SAMPLING) for row in range(3)]
    assert torch.equal(together[0], torch.cat([ids for ids, _ in alone]))
    assert torch.equal(together[1], torch.cat([drawn for _, drawn in alone]))


def test_a_flat_row_draws_beyond_the_ids_looked_at_first():
    logp = torch.full((1, WIDE), 1.0).log_softmax(-1)
    _, drawn = choose(logp, torch.tensor([0.9], dtype=torch.float64), Sampling(1, 1.0, 0.5))
    torch.testing.assert_close(drawn.exp(), torch.tensor([2 / WIDE]), rtol=1e-3, atol=0)
