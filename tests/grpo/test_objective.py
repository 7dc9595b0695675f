"""The objective against values worked out by hand and against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from chexreason.grpo.objective import LOG_RATIO_LIMIT, ObjectiveSpec, denominator, kl_divergence, policy_loss
from tests.support.presets import plain, preset

NORMALISERS = ["constant", "sequence_mean", "token_mean"]
T_MAX = 10


def spec(**changes: Any) -> ObjectiveSpec:
    return plain(**({"clip_low": 0.15, "clip_high": 0.22} | changes))


def batch(n: int = 5, t: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Ragged rows, e.g. mask [[1, 1, 0], [1, 0, 0], [1, 1, 1]], as float64: logp, old, ref, advantages, mask."""
    rng = torch.Generator().manual_seed(0)
    logp, old, ref = (-3 * torch.rand(n, t, generator=rng, dtype=torch.float64) for _ in range(3))
    old = logp + 0.3 * (old + 1.5)
    lengths = torch.randint(1, t + 1, (n,), generator=rng)
    mask = torch.arange(t)[None] < lengths[:, None]
    return logp, old, ref, torch.randn(n, generator=rng, dtype=torch.float64), mask


def gradient(logp: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    leaf = logp.clone().requires_grad_()
    loss, _ = policy_loss(leaf, *rest)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def test_a_three_token_vocabulary_by_hand() -> None:
    """Two tokens, probabilities (1/2, 1/4, 1/4) twice, tokens 0 then 2, old policy (2/5) and (1/4), advantage 2."""
    logits = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]]).log().requires_grad_()
    logp = logits.log_softmax(-1)[torch.arange(2), torch.tensor([0, 2])][None]  # [1, 2]
    old = torch.tensor([[0.4, 0.25]]).log()
    mask = torch.ones(1, 2, dtype=torch.bool)
    wide = spec(clip_high=0.3)
    loss, stats = policy_loss(logp, old, None, torch.tensor([2.0]), mask, wide)
    # ratios 0.5 / 0.4 = 1.25 and 1: -(2.5 + 2)
    assert loss.item() == pytest.approx(-4.5)
    assert stats["ratio"].item() == pytest.approx(2.25)
    assert stats["abs_log_ratio"].item() == pytest.approx(math.log(1.25))
    loss.backward()
    # -A * ratio * (onehot - p)
    expected = torch.tensor([[-2.5 * 0.5, 2.5 * 0.25, 2.5 * 0.25], [2 * 0.5, 2 * 0.25, -2 * 0.75]])
    torch.testing.assert_close(logits.grad, expected)


def test_loss_with_kl_by_hand() -> None:
    """p = 1/2, old = 1/2, ref = 1/4: k3 = 1/2 + ln 2 - 1; loss = -3 + 0.15 k3."""
    logp, ref = torch.tensor([[0.5]]).log(), torch.tensor([[0.25]]).log()
    loss, stats = policy_loss(logp, logp, ref, torch.tensor([3.0]), torch.tensor([[True]]), spec(kl_beta=0.15))
    k3 = 0.5 + math.log(2) - 1
    assert stats["kl"].item() == pytest.approx(k3)
    assert loss.item() == pytest.approx(-3 + 0.15 * k3)


@pytest.mark.parametrize("name", NORMALISERS)
def test_the_textbook_loops(name: str) -> None:
    logp, old, ref, advantages, mask = batch()
    chosen = spec(normaliser=name, kl_beta=0.15)
    got = policy_loss(logp, old, ref, advantages, mask, chosen)[0] / denominator(mask, chosen, T_MAX)
    rows, n_tokens = [], 0
    for i in range(len(logp)):
        terms = []
        for t in range(int(mask[i].sum())):
            r, a = math.exp(logp[i, t] - old[i, t]), advantages[i].item()
            surrogate = min(r * a, min(max(r, 0.85), 1.22) * a)
            d = (ref[i, t] - logp[i, t]).item()
            terms.append(-surrogate + 0.15 * (math.exp(d) - d - 1))
        n_tokens += len(terms)
        rows.append({"constant": sum(terms) / T_MAX, "sequence_mean": sum(terms) / len(terms)}.get(name, sum(terms)))
    expected = sum(rows) / (n_tokens if name == "token_mean" else len(rows))
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_at_ratio_one_the_gradient_is_minus_advantage() -> None:
    logp, _, _, advantages, mask = batch()
    _, grad = gradient(logp, logp, None, advantages, mask, spec())
    torch.testing.assert_close(grad, -advantages[:, None] * mask)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "side"),
    [
        (1.30, 1.0, -1.22, 0.0, "clip_high"),  # already raised enough
        (1.30, -1.0, 1.30, 1.30, None),  # raised though bad: pushed down, not clipped
        (0.80, -1.0, 0.85, 0.0, "clip_low"),  # already lowered enough
        (0.80, 1.0, -0.80, -0.80, None),  # lowered though good: pushed up, not clipped
        (1.20, 1.0, -1.20, -1.20, None),
        (0.90, -1.0, 0.90, 0.90, None),
        (1.30, 0.0, 0.0, 0.0, None),
    ],
)
def test_clip_on_both_sides_for_both_signs(
    ratio: float, advantage: float, loss: float, slope: float, side: str | None
) -> None:
    logp = torch.tensor([[math.log(ratio) - 2]], dtype=torch.float64)
    old, mask = torch.full_like(logp, -2.0), torch.tensor([[True]])
    rest = (old, None, torch.tensor([advantage], dtype=torch.float64), mask, spec())
    value, grad = gradient(logp, *rest)
    assert value.item() == pytest.approx(loss)
    assert grad.item() == pytest.approx(slope)
    stats = policy_loss(logp, *rest)[1]
    assert [name for name in ("clip_low", "clip_high") if stats[name] == 1] == ([side] if side else [])


def test_k3_gradient_in_closed_form_and_beyond_the_limit() -> None:
    """d k3 / d logp = 1 - exp(ref - logp), constant above the limit: finite, and still pulling back."""
    gaps = torch.tensor([-300.0, -5.0, -0.1, 0.0, 0.1, 5.0, LOG_RATIO_LIMIT, 11.0, 100.0, 1e4], dtype=torch.float32)
    logp = (-gaps).requires_grad_()
    kl = kl_divergence(logp, torch.zeros(10), "k3")
    (grad,) = torch.autograd.grad(kl.sum(), logp)
    bounded = gaps.clamp(max=LOG_RATIO_LIMIT)
    torch.testing.assert_close(grad, 1 - bounded.exp(), rtol=1e-5, atol=1e-6)
    assert kl.isfinite().all()
    assert (kl >= 0).all()
    torch.testing.assert_close(kl[:7], gaps[:7].exp() - gaps[:7] - 1, rtol=1e-5, atol=1e-6)
    assert kl[7:].diff().min() > 0


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_an_extreme_ratio_is_finite_and_never_stuck_at_a_bad_token(advantage: float) -> None:
    logp, old = torch.tensor([[-0.1]]), torch.tensor([[-500.0]])
    loss, grad = gradient(logp, old, None, torch.tensor([advantage]), torch.tensor([[True]]), spec())
    assert loss.isfinite()
    assert grad.item() == pytest.approx(0.0 if advantage > 0 else math.exp(LOG_RATIO_LIMIT), rel=1e-5)


def test_estimators_against_the_whole_vocabulary() -> None:
    """Summed over a vocabulary with the policy's weights, k1 and k3 are the KL, and k2 has its gradient on-policy."""
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-0.2, 0.4, 0.1], dtype=torch.float64).log_softmax(0)
    logp = logits.log_softmax(0)
    exact = (logp.exp() * (logp - ref)).sum()
    (exact_grad,) = torch.autograd.grad(exact, logits, retain_graph=True)
    weights = logp.exp().detach()
    for name in ("k1", "k3"):
        assert (weights * kl_divergence(logp, ref, name)).sum().item() == pytest.approx(exact.item())
    k1, k2 = ((weights * kl_divergence(logp, ref, name)).sum() for name in ("k1", "k2"))
    torch.testing.assert_close(torch.autograd.grad(k2, logits, retain_graph=True)[0], exact_grad)
    assert torch.autograd.grad(k1, logits)[0].abs().max() < 1e-12


def test_the_ratio_factor_gives_the_true_kl_gradient_off_policy() -> None:
    """Tokens drawn from an old policy: ratio * k3 sums to the KL of the new one, in value and in gradient."""
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    ref, old = (torch.tensor(x, dtype=torch.float64).log_softmax(0) for x in ([-0.2, 0.4, 0.1], [0.2, -0.9, 0.9]))
    logp = logits.log_softmax(0)
    losses = torch.stack(
        [
            policy_loss(
                logp[v].view(1, 1),
                old[v].view(1, 1),
                ref[v].view(1, 1),
                torch.zeros(1, dtype=torch.float64),
                torch.tensor([[True]]),
                spec(kl_beta=1.0, kl_ratio_factor=True),
            )[0]
            for v in range(3)
        ]
    )
    weighted = (old.exp() * losses).sum()
    exact = (logp.exp() * (logp - ref)).sum()
    assert weighted.item() == pytest.approx(exact.item())
    grads = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (weighted, exact)]
    torch.testing.assert_close(*grads)


def test_zero_advantage_leaves_only_the_kl_gradient() -> None:
    logp, old, ref, advantages, mask = batch()
    zero = torch.zeros_like(advantages)
    _, grad = gradient(logp, old, ref, zero, mask, spec(kl_beta=0.15))
    torch.testing.assert_close(grad, 0.15 * (1 - (ref - logp).exp()) * mask)
    assert not gradient(logp, old, ref, zero, mask, spec())[1].any()


def test_sequence_ratio_is_the_geometric_mean() -> None:
    logp = torch.tensor([[0.5, 0.2, 0.9]], dtype=torch.float64).log()
    old = torch.tensor([[0.4, 0.25, 0.1]], dtype=torch.float64).log()
    mask = torch.tensor([[True, True, False]])
    chosen = spec(ratio_level="sequence", normaliser="sequence_mean", clip_low=0.9, clip_high=9.0)
    advantage = torch.tensor([2.0], dtype=torch.float64)
    loss, grad = gradient(logp, old, None, advantage, mask, chosen)
    assert loss.item() == pytest.approx(-2.0)  # sqrt(1.25 * 0.8) = 1
    torch.testing.assert_close(grad, torch.tensor([[-1.0, -1.0, 0.0]], dtype=torch.float64))


def test_the_named_specs_say_what_their_papers_say() -> None:
    def parts(name: str) -> tuple[object, ...]:
        s = preset(name)
        return s.normaliser, s.scale, s.clip_low, s.clip_high, s.kl_beta, s.kl_estimator, s.updates_per_rollout > 1

    assert parts("paper") == ("constant", "none", 0.15, 0.22, 0.15, "k3", True)
    assert parts("grpo") == ("sequence_mean", "std", 0.2, 0.2, 0.04, "k3", False)
    assert parts("dr_grpo") == ("constant", "none", 0.2, 0.2, 0.0, "k3", False)
