from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.grpo.objective import group_advantages, zero_variance

groups = st.lists(st.lists(st.floats(-300, 150, width=32), min_size=4, max_size=4), min_size=1, max_size=3)


def test_values_by_hand() -> None:
    rewards = torch.tensor([[0.0, 1.0, 2.0, 5.0], [3.0, 3.0, 3.0, 3.0]])
    assert group_advantages(rewards, scale="none").tolist() == [[-2.0, -1.0, 0.0, 3.0], [0.0] * 4]
    # sum of squares 14, G - 1 = 3
    scaled = group_advantages(rewards, scale="std")
    torch.testing.assert_close(scaled, torch.tensor([[-2.0, -1.0, 0.0, 3.0], [0.0] * 4]) / math.sqrt(14 / 3))


def test_std_is_the_sample_deviation_of_torch() -> None:
    rewards = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)
    torch.testing.assert_close(group_advantages(rewards, scale="std"), expected)


@pytest.mark.parametrize("scale", ["none", "std"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -155.7, 1e-30, 3e8])
@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_a_group_without_variance_is_exactly_zero(scale: str, value: float, size: int) -> None:
    """Rounding makes the mean of equal rewards differ from them; over a tiny deviation that would become a signal."""
    assert group_advantages(torch.full((1, size), value), scale=scale).tolist() == [[0.0] * size]


def test_zero_variance_groups() -> None:
    rewards = torch.tensor(
        [[0.1, 0.1, 0.1], [0.1, 0.1, 0.2], [0.3, 0.1 + 0.2, 0.30000001], [0.0, 1e-30, 0.0], [-100.0, -100.0, 50.0]]
    )
    assert zero_variance(rewards).tolist() == [True, False, True, True, False]
    assert group_advantages(rewards, scale="std").isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_rewards_are_refused(bad: float) -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, bad]])
    with pytest.raises(ValueError, match=r"reward (nan|inf) in group 1, completion 1"):
        group_advantages(rewards, scale="none")


def test_wrong_shapes_and_scales_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float \[B, G\].*\(4,\)"):
        group_advantages(torch.zeros(4), scale="none")
    with pytest.raises(ValueError, match=r"int64 \(1, 4\)"):
        zero_variance(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="scale='group'"):
        group_advantages(torch.zeros(1, 4), scale="group")  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(rewards=groups)
def test_properties(rewards: list[list[float]]) -> None:
    given_rewards = torch.tensor(rewards)
    before = given_rewards.clone()
    centred = group_advantages(given_rewards, scale="none")
    scaled = group_advantages(given_rewards, scale="std")
    assert torch.equal(given_rewards, before), "the input changed"
    assert centred.sum(1).abs().max() < 1e-3
    assert scaled.isfinite().all()
    assert scaled.abs().max() <= 1.5 + 1e-4, "the largest deviation of 4 values is (G - 1) / sqrt(G) = 1.5"
    torch.testing.assert_close(
        group_advantages(given_rewards.flip(1), scale="std"), scaled.flip(1), atol=1e-4, rtol=1e-4
    )
