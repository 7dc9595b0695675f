"""What must not change the objective: micro-batches, ranks, order, padding, and what padding holds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import cycle, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chexreason.grpo.objective import ObjectiveSpec, denominator, policy_loss
from tests.support.presets import NAMES, preset

SPECS = [
    ObjectiveSpec("t", normaliser, "none", 0.15, 0.22, 0.15, estimator, level, factor, 2)
    for normaliser, estimator, level, factor in (
        ("constant", "k3", "token", False),
        ("sequence_mean", "k2", "token", True),
        ("token_mean", "k1", "sequence", False),
    )
]
PRESETS = [preset(name) for name in NAMES]
# The presets' clips would leave few tokens to tell right from wrong: the data's ratios are far from 1.
CORRECTED = [
    replace(preset, name=f"{preset.name}_{level}", correction=level, clip_low=0.15, clip_high=0.22, kl_beta=0.15)
    for preset, level in zip(PRESETS, cycle(("token", "sequence")), strict=False)
]
every_preset = pytest.mark.parametrize("spec", CORRECTED, ids=lambda s: s.name)
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.normaliser)
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def batch(lengths: list[int], t: int = 5) -> Batch:
    """logp, old, ref [N, T], advantages [N], mask [N, T] in float64; lengths [2, 1] give [[1, 1, 0], [1, 0, 0]]."""
    rng = torch.Generator().manual_seed(len(lengths))
    logp = -3 * torch.rand(len(lengths), t, generator=rng, dtype=torch.float64)
    old, ref = (logp + 0.4 * torch.randn(logp.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    advantages = torch.randn(len(lengths), generator=rng, dtype=torch.float64)
    return logp, old, ref, advantages, torch.arange(t)[None] < torch.tensor(lengths)[:, None]


def run(rows: Batch, spec: ObjectiveSpec, total: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss divided once, its gradient [N, T] and the statistics."""
    logp = rows[0].clone().requires_grad_()
    loss, stats = policy_loss(logp, *rows[1:], spec)
    loss = loss / (denominator(rows[4], spec, 10) if total is None else total)
    (grad,) = torch.autograd.grad(loss, logp)
    return loss.detach(), grad, stats


@every_spec
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=2, max_size=7).filter(any), data=st.data())
def test_micro_batches_sum_to_the_update(spec: ObjectiveSpec, lengths: list[int], data: st.DataObject) -> None:
    rows = batch(lengths)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(lengths) - 1))) | {0, len(lengths)})
    pieces = [tuple(x[a:b] for x in rows) for a, b in pairwise(cuts)]
    total = denominator(rows[4], spec, 10)
    assert sum(denominator(piece[4], spec, 10) for piece in pieces) == total
    whole = run(rows, spec)
    split = [run(piece, spec, total) for piece in pieces]  # type: ignore[arg-type]
    torch.testing.assert_close(sum(loss for loss, _, _ in split), whole[0])
    torch.testing.assert_close(torch.cat([grad for _, grad, _ in split]), whole[1])
    for name, value in whole[2].items():
        torch.testing.assert_close(sum(stats[name] for _, _, stats in split), value)


@every_preset
@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=3, max_size=7).filter(any), data=st.data())
def test_ranks_and_their_micro_batches_do_not_matter(
    spec: ObjectiveSpec, lengths: list[int], data: st.DataObject
) -> None:
    """Each rank divides by the summed denominator over the ranks' number, and gradients are averaged over ranks.

    Ranks hold uneven shares, perhaps nothing that counts; the rows of a rank come in any order, two at a time.
    """
    rows = batch(lengths)
    sampled = rows[1] + 0.5 * rows[0]
    n_ranks = data.draw(st.integers(1, 3))
    order = data.draw(st.permutations(range(len(lengths))))
    total = denominator(rows[4], spec, 10)
    whole = policy_gradient(rows, sampled, list(range(len(lengths))), spec, total)
    averaged = torch.zeros_like(rows[0])
    for rank in range(n_ranks):
        mine = order[rank::n_ranks]
        for start in range(0, len(mine), 2):
            averaged += policy_gradient(rows, sampled, mine[start : start + 2], spec, total / n_ranks) / n_ranks
    torch.testing.assert_close(averaged, whole)


def policy_gradient(rows: Batch, sampled: Tensor, which: list[int], spec: ObjectiveSpec, total: Tensor) -> Tensor:
    """Gradient [N, T] of the loss of some rows with respect to all log-probabilities."""
    logp = rows[0].clone().requires_grad_()
    old, ref, advantages, mask = (x[which] for x in rows[1:])
    loss, _ = policy_loss(logp[which], old, ref, advantages, mask, spec, sampled_logp=sampled[which])
    return torch.autograd.grad(loss / total, logp)[0]


@every_spec
def test_row_order_and_padding_do_not_matter(spec: ObjectiveSpec) -> None:
    rows = batch([3, 1, 5, 2])
    loss, grad, stats = run(rows, spec)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = run(tuple(x[order] for x in rows), spec)  # type: ignore[arg-type]
    torch.testing.assert_close(shuffled[:2], (loss, grad[order]))
    wider = tuple(torch.nn.functional.pad(x, (0, 4)) if x.dim() == 2 else x for x in rows)
    padded = run(wider, spec)  # type: ignore[arg-type]
    torch.testing.assert_close(padded[0], loss)
    torch.testing.assert_close(padded[2], stats)
    assert stats["tokens"] == 11


@every_spec
def test_rows_without_tokens_count_for_nothing(spec: ObjectiveSpec) -> None:
    rows = batch([3, 0, 5, 0])
    kept = tuple(x[[0, 2]] for x in rows)
    rows[3][[1, 3]] = math.nan
    loss, grad, _ = run(rows, spec)
    torch.testing.assert_close(loss, run(kept, spec)[0])  # type: ignore[arg-type]
    assert not grad[[1, 3]].any()


@every_spec
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, -1e30])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_masked_positions_may_hold_anything(spec: ObjectiveSpec, garbage: float, which: int) -> None:
    rows = batch([3, 1, 5, 2])
    dirty = list(rows)
    dirty[which] = rows[which].masked_fill(~rows[4], garbage)
    loss, grad, stats = run(rows, spec)
    got = run(tuple(dirty), spec)  # type: ignore[arg-type]
    assert torch.equal(got[0], loss)
    assert torch.equal(got[1], grad)
    assert not grad[~rows[4]].any()
    assert all(torch.equal(got[2][name], value) for name, value in stats.items())


@every_spec
def test_inputs_are_unchanged(spec: ObjectiveSpec) -> None:
    rows = batch([3, 1, 5, 2])
    before = [x.clone() for x in rows]
    policy_loss(*rows, spec)
    denominator(rows[4], spec, 10)
    assert all(torch.equal(x, y) for x, y in zip(rows, before, strict=True))


def test_only_the_policy_is_differentiated() -> None:
    rows = batch([3, 1])
    logp, old, ref, advantages = (x.clone().requires_grad_() for x in rows[:4])
    loss, stats = policy_loss(logp, old, ref, advantages, rows[4], SPECS[1])
    loss.backward()
    assert logp.grad is not None
    assert old.grad is None
    assert ref.grad is None
    assert advantages.grad is None
    assert not any(value.requires_grad for value in stats.values())


def test_half_precision_is_summed_in_single() -> None:
    rows = batch([5] * 4)
    half = tuple(x.to(torch.bfloat16) if x.is_floating_point() else x for x in rows)
    loss, stats = policy_loss(*half, SPECS[0])
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in stats.values())


def test_denominators_by_hand() -> None:
    mask = batch([3, 1, 0, 5])[4]
    assert [denominator(mask, spec, 10).item() for spec in SPECS] == [30.0, 3.0, 9.0]


def test_without_a_reference_there_is_no_kl() -> None:
    logp, old, _, advantages, mask = batch([3, 1])
    free = ObjectiveSpec("free", "constant", "none", 0.2, 0.2, 0.0, "k3", "token", False, 1)
    assert "kl" not in policy_loss(logp, old, None, advantages, mask, free)[1]
    with pytest.raises(ValueError, match=r"objective 't' has kl_beta=0\.15: pass ref_logp"):
        policy_loss(logp, old, None, advantages, mask, SPECS[0])


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, torch.zeros(2, 4), r"need \[N, T\].*'old_logp': \(2, 4\)"),
        (3, torch.zeros(2, 1), r"\[N\] for advantages \(2, 1\)"),
        (4, torch.ones(2, 5), "mask must be bool, not torch.float32"),
    ],
)
def test_mismatched_inputs_are_refused(position: int, value: Tensor, message: str) -> None:
    rows: list[Any] = list(batch([3, 1]))
    rows[position] = value
    with pytest.raises(ValueError, match=message):
        policy_loss(*rows, SPECS[0])
