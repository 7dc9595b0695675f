"""Scores from hidden states: those of the whole logits, in value and gradient, a part of the vocabulary at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from chexreason.model import logprobs
from chexreason.model.logprobs import TokenScores, score_states, score_tokens

N, T, H, V = 3, 5, 8, 11


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(H, V, bias=False).requires_grad_(False)


@pytest.fixture
def rows() -> tuple[Tensor, Tensor, Tensor]:
    """States [N, T, H], ids and mask [N, T]: one row is full, one is cut short, one has no token at all."""
    torch.manual_seed(1)
    mask = torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [0] * 5])
    return torch.randn(N, T, H) * 2, torch.randint(V, (N, T)), mask


def gradient(scores: TokenScores, states: Tensor) -> Tensor:
    weights = torch.linspace(-1, 2, N * T).reshape(N, T)
    return torch.autograd.grad((scores.logp * weights).sum(), states)[0]


def read_in_blocks_of(ids: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "LOGITS", 1)
    monkeypatch.setattr(logprobs, "NARROWEST", ids)


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
def test_scores_and_gradient_are_those_of_the_whole_logits(head, rows, block, temperature, bias, monkeypatch):
    read_in_blocks_of(block, monkeypatch)
    if bias:
        head.bias = nn.Parameter(torch.randn(V) * 2, requires_grad=False)
    states, ids, mask = rows[0].requires_grad_(), *rows[1:]
    ids[0, :2] = head(states)[0, :2].argmax(-1)
    ours, whole = score_states(head, states, ids, mask, temperature), score_tokens(head(states), ids, mask, temperature)
    torch.testing.assert_close(ours.logp, whole.logp, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.entropy, whole.entropy, atol=1e-6, rtol=1e-5)
    assert torch.equal(ours.top1, whole.top1)
    assert whole.top1.any()
    expected = gradient(whole, states)
    torch.testing.assert_close(gradient(ours, states), expected, atol=1e-6, rtol=1e-5)
    assert expected.abs().max() > 0.1


def test_only_real_tokens_reach_the_head(head, rows, monkeypatch):
    seen = []

    def linear(states, weight, bias=None):
        seen.append((len(states), len(weight)))
        return product(states, weight, bias)

    product = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", linear)
    read_in_blocks_of(4, monkeypatch)
    scores = score_states(head, *rows)
    assert seen == [(7, 4), (7, 4), (7, 3)]
    assert (scores.logp != 0).sum() == rows[2].sum()


@pytest.mark.parametrize("margin", [2.0, 6.0, 9.0])
def test_in_half_precision_a_sure_token_keeps_its_gradient(margin):
    """1 - p of such a token is lost where p itself is rounded to bf16, whose numbers below 1 are 0.004 apart."""
    torch.manual_seed(2)
    head = nn.Linear(H, V, bias=False).bfloat16().requires_grad_(False)
    states, ids = torch.randn(1, 1, H).bfloat16(), torch.zeros(1, 1, dtype=torch.long)
    direction = torch.linalg.lstsq(head.weight.double(), torch.eye(V, dtype=torch.double)[:, :1] * margin).solution
    states = (states.double() * 0.1 + 4 * direction.T).bfloat16().requires_grad_()
    scores = score_states(head, states, ids, torch.ones_like(ids))
    ours = torch.autograd.grad(scores.logp.sum(), states)[0].double()[0]
    probs = head(states).detach()[0].double().softmax(-1)  # [1, V], exact from the logits that bf16 gives
    expected = (torch.eye(V)[:1].double() - probs) @ head.weight.double()
    assert (ours - expected).norm() < 0.01 * expected.norm()


def test_a_head_that_is_more_than_a_product_takes_the_long_way(head, rows):
    class Doubled(nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            return 2 * super().forward(states)

    double = Doubled(H, V, bias=False).requires_grad_(False)
    torch.testing.assert_close(score_states(double, *rows).logp, score_tokens(double(rows[0]), *rows[1:]).logp)


def test_a_head_that_is_trained_gets_its_own_gradient(head, rows):
    states, ids, mask = rows
    head.requires_grad_(True)
    score_states(head, states, ids, mask).logp.sum().backward()
    found, head.weight.grad = head.weight.grad.clone(), None
    score_tokens(head(states), ids, mask).logp.sum().backward()
    torch.testing.assert_close(found, head.weight.grad)


def test_states_of_half_precision_keep_their_precision(head, rows):
    states = rows[0].bfloat16().requires_grad_()
    scores = score_states(head.bfloat16(), states, *rows[1:])
    assert scores.logp.dtype == torch.float32
    whole = score_tokens(head(states), *rows[1:])
    torch.testing.assert_close(scores.logp, whole.logp, atol=1e-6, rtol=1e-6)
    ours = gradient(scores, states)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, gradient(whole, states), atol=2e-2, rtol=2e-2)


def test_nothing_to_score_is_a_differentiable_zero(head, rows):
    states = rows[0].requires_grad_()
    scores = score_states(head, states, rows[1], torch.zeros(N, T, dtype=torch.long))
    assert not gradient(scores, states).any()
    assert not scores.logp.any()
