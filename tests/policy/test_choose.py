"""Drawing a token: what the neighbours' distributions look like changes no bit of a row."""

from __future__ import annotations

import torch

from chexreason.policy.generate import NUCLEUS, Sampling, choose


def test_a_flat_neighbour_changes_no_bit_of_a_peaked_row():
    torch.manual_seed(0)
    scale = torch.tensor([[0.1], [6.0], [8.0]])  # the first row needs more ids than are looked at first
    logp = (torch.randn(3, 8 * NUCLEUS) * scale).log_softmax(-1)
    uniform = torch.tensor([0.999, 0.4, 0.9], dtype=torch.float64)
    sampling = Sampling(1, 1.0, 0.95)
    together = choose(logp, uniform, sampling)
    assert logp[0].topk(NUCLEUS).values.exp().sum() < 0.5
    for row in range(3):
        alone = choose(logp[row : row + 1], uniform[row : row + 1], sampling)
        assert torch.equal(together[0][row], alone[0][0])
        assert torch.equal(together[1][row], alone[1][0])


def test_a_flat_row_draws_beyond_the_ids_looked_at_first():
    logp = torch.full((1, 8 * NUCLEUS), 1.0).log_softmax(-1)
    _, drawn = choose(logp, torch.tensor([0.9], dtype=torch.float64), Sampling(1, 1.0, 0.5))
    torch.testing.assert_close(drawn.exp(), torch.tensor([1 / (4 * NUCLEUS)]), rtol=1e-3, atol=0)
