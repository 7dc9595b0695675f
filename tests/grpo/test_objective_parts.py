"""The parts a spec may add to the clipped objective: sampler correction, dual clip, rows that do not count."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from chexreason.grpo.objective import ObjectiveSpec, denominator, loss_mask, policy_loss
from tests.support.presets import plain as spec


def logs(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def loss_of(logp: Tensor, old: Tensor, advantage: float, chosen: ObjectiveSpec, **kwargs: Any) -> tuple[Tensor, Any]:
    gain = torch.tensor([advantage], dtype=torch.float64)
    return policy_loss(logp, old, None, gain, torch.ones_like(logp, dtype=torch.bool), chosen, **kwargs)


def test_a_correction_of_a_three_token_nucleus_by_hand() -> None:
    """p = (1/2, 1/4, 1/4); the nucleus draws from (2/3, 1/3, 0): token 0 weighs 1/2 : 2/3 = 3/4, as does token 1."""
    logp, drawn = logs(1 / 2, 1 / 4), logs(2 / 3, 1 / 3)
    token, stats = loss_of(logp, logp, 2.0, spec(correction="token"), sampled_logp=drawn)
    assert token.item() == pytest.approx(-2 * (3 / 4 + 3 / 4))
    assert stats["correction"].item() == pytest.approx(1.5)
    assert stats["correction_capped"] == 0
    assert stats["mismatch"].item() == pytest.approx(2 * math.log(4 / 3))
    sequence, _ = loss_of(logp, logp, 2.0, spec(correction="sequence"), sampled_logp=drawn)
    assert sequence.item() == pytest.approx(-2 * 2 * 9 / 16)
    plain, stats = loss_of(logp, logp, 2.0, spec(), sampled_logp=drawn)
    assert plain.item() == pytest.approx(-4.0)
    assert "correction" not in stats
    assert stats["mismatch"].item() == pytest.approx(2 * math.log(4 / 3)), "measured, corrected or not"


@pytest.mark.parametrize(("level", "expected"), [("token", 2.0 + 0.5), ("sequence", 2 * 2.0)])
def test_a_correction_is_truncated_at_its_cap(level: str, expected: float) -> None:
    """Weights 8 and 1/2: the token level caps the first, the sequence level their product 4, counted for both."""
    old, drawn = logs(0.8, 0.1), logs(0.1, 0.2)
    loss, stats = loss_of(old, old, 1.0, spec(correction=level), sampled_logp=drawn)
    assert loss.item() == pytest.approx(-expected)
    assert stats["correction_capped"].item() == (1 if level == "token" else 2)


def test_the_correction_restores_the_policy_gradient_of_another_sampler() -> None:
    """Tokens of a three-token vocabulary, drawn at temperature 1/2: weighted, they give the gradient at 1."""
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    logp, drawn = logits.log_softmax(0), (2 * logits.detach()).log_softmax(0)
    gains = (1.0, -2.0, 0.5)
    chosen = spec(correction="token", correction_cap=100.0)
    losses = [
        loss_of(logp[v].view(1, 1), logp[v].view(1, 1), gain, chosen, sampled_logp=drawn[v].view(1, 1))[0]
        for v, gain in enumerate(gains)
    ]
    (estimate,) = torch.autograd.grad((drawn.exp() * torch.stack(losses)).sum(), logits, retain_graph=True)
    reward = (logp.exp() * torch.tensor(gains, dtype=torch.float64)).sum()
    (exact,) = torch.autograd.grad(-reward, logits)
    torch.testing.assert_close(estimate, exact)


def test_a_correction_leaves_the_kl_term_alone_and_needs_the_sampler() -> None:
    logp, ref = logs(0.5), logs(0.25)
    mask, gain = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.float64)
    chosen = spec(correction="token", kl_beta=1.0)
    loss, _ = policy_loss(logp, logp, ref, gain, mask, chosen, sampled_logp=logs(0.9))
    assert loss.item() == pytest.approx(0.5 + math.log(2) - 1)
    with pytest.raises(ValueError, match="correction=token: pass sampled_logp, or set correction=none"):
        policy_loss(logp, logp, ref, gain, mask, chosen)
    with pytest.raises(ValueError, match=r"'sampled_logp': \(1, 2\)"):
        policy_loss(logp, logp, ref, gain, mask, chosen, sampled_logp=logs(0.9, 0.9))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (5.0, -1.0, 3.0, 0.0),  # bounded: the token cannot dominate the update, nor is it pushed further
        (2.5, -1.0, 2.5, 2.5),  # above the clip, below the dual clip: as ever
        (5.0, 1.0, -1.2, 0.0),  # a good token is clipped as ever
        (0.5, -1.0, 0.8, 0.0),
    ],
)
def test_the_dual_clip_bounds_bad_tokens_only(ratio: float, advantage: float, loss: float, slope: float) -> None:
    logp = logs(0.1).requires_grad_()
    value, stats = loss_of(logp, logs(0.1 / ratio), advantage, spec(dual_clip=3.0))
    assert stats["dual_clipped"] == (loss == 3.0)
    assert value.item() == pytest.approx(loss)
    assert torch.autograd.grad(value, logp)[0].item() == pytest.approx(slope)


MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]], dtype=torch.bool)
FINISHED, FLAT = torch.tensor([False, True, True, True]), torch.tensor([False, False, True, True])


@pytest.mark.parametrize(
    ("changes", "kept", "tokens"),
    [
        ({}, [0, 1, 2, 3], 8),
        ({"truncated": "mask"}, [1, 2, 3], 5),
        ({"zero_variance": "mask"}, [0, 1], 4),
        ({"truncated": "mask", "zero_variance": "mask"}, [1], 1),
    ],
)
def test_rows_that_do_not_count_are_emptied_not_dropped(changes: dict[str, Any], kept: list[int], tokens: int) -> None:
    before = MASK.clone()
    counted = loss_mask(MASK, spec(**changes), finished=FINISHED, zero_variance=FLAT)
    assert torch.equal(MASK, before)
    assert counted.shape == MASK.shape
    assert counted.any(dim=1).nonzero()[:, 0].tolist() == kept
    assert torch.equal(counted[kept], MASK[kept])
    assert denominator(counted, spec(**changes), 10) == 10 * len(kept)
    assert denominator(counted, spec(normaliser="token_mean", **changes), 10) == tokens


def test_an_update_in_which_no_row_counts_has_a_zero_gradient() -> None:
    """A rank whose groups all have zero variance still runs its backward pass, and adds nothing."""
    chosen = spec(zero_variance="mask", kl_beta=0.5)
    logp = torch.full((4, 3), -1.0, dtype=torch.float64, requires_grad=True)
    counted = loss_mask(MASK, chosen, finished=FINISHED, zero_variance=torch.ones(4, dtype=torch.bool))
    loss, _ = policy_loss(logp, logp, logp - 1, torch.zeros(4, dtype=torch.float64), counted, chosen)
    (loss / denominator(counted, chosen, 10).clamp(min=1)).backward()
    assert logp.grad is not None
    assert not logp.grad.any()


def test_the_temperature_of_the_ratio() -> None:
    assert spec().logp_temperature(0.8) == 0.8
    assert spec(ratio_temperature="unit").logp_temperature(0.8) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normaliser": "mean"}, "normaliser='mean'; use one of constant, sequence_mean, token_mean"),
        ({"kl_estimator": "k4"}, "kl_estimator='k4'"),
        ({"ratio_level": "word"}, "ratio_level='word'"),
        ({"clip_low": 1.0}, "clip_low=1.0"),
        ({"clip_high": -0.1}, "clip_high=-0.1"),
        ({"kl_beta": -1.0}, "kl_beta=-1.0"),
        ({"updates_per_rollout": 0}, "updates_per_rollout=0"),
        ({"correction": "row"}, "correction='row'; use one of none, token, sequence"),
        ({"correction_cap": 0.0}, r"correction_cap=0\.0 must be > 0"),
        ({"dual_clip": 1.2}, r"dual_clip=1\.2 must be null or > 1 \+ clip_high"),
        ({"std_epsilon": -1.0}, r"std_epsilon=-1\.0 must be >= 0"),
        ({"truncated": "drop"}, "truncated='drop'; use one of keep, mask"),
        ({"zero_variance": "drop"}, "zero_variance='drop'"),
        ({"ratio_temperature": "one"}, "ratio_temperature='one'; use one of sampling, unit"),
        (
            {"clip_low": 2.0, "scale": "batch"},
            r"scale='batch'; use one of none, std; clip_low=2\.0 must be in \[0, 1\)",
        ),
    ],
)
def test_impossible_parts_are_refused_all_in_one_message(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**changes)
