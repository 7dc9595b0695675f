from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from chexreason.statistics.permutation import holm, paired_permutation


def _total(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0]


def _totals(n: int, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.random.default_rng(seed).random((2, n, 1))
    return a, b + shift


def test_exact_equals_scipy() -> None:
    a, b = _totals(9, 0.2)
    pair = (b[:, 0], a[:, 0])
    oracle = permutation_test(pair, lambda x, y: x.sum() - y.sum(), permutation_type="samples", n_resamples=10_000)
    assert paired_permutation(a, b, _total) == pytest.approx(oracle.pvalue)


def test_exact_equals_a_slow_loop_for_a_ratio_and_ignores_ties() -> None:
    a, b = np.random.default_rng(3).integers(0, 4, (2, 7, 3)).astype(float)
    b[2] = a[2]  # a patient on whom the arms agree

    def f1(sums: np.ndarray) -> np.ndarray:
        return 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2])

    def difference(swap: tuple[bool, ...]) -> float:
        keep = np.array(swap)[:, None]
        x, y = (np.where(keep, *pair).sum(axis=0, keepdims=True) for pair in ((b, a), (a, b)))
        return float((f1(y) - f1(x))[0])

    observed = abs(difference((False,) * 7))
    every = [abs(difference(swap)) >= observed - 1e-12 for swap in product((False, True), repeat=7)]
    assert paired_permutation(a, b, f1) == pytest.approx(sum(every) / len(every))


def test_drawn_relabellings_agree_with_all_of_them_and_count_the_observed_one() -> None:
    a, b = _totals(12, 0.15)
    exact = paired_permutation(a, b, _total, n_permutations=2**12)
    drawn = paired_permutation(a, b, _total, n_permutations=4_000, seed=1)
    assert drawn == pytest.approx(exact, abs=0.03)
    far = paired_permutation(*_totals(40, 5.0), _total, n_permutations=999)
    assert far == 1 / 1000  # none of 999 is as far; never 0


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("n", [11, 33])
def test_the_draws_are_those_of_torch(seed: int, n: int) -> None:
    """Reports of before statistics left torch keep their p-values: 1,000 relabellings in two chunks."""
    a, b = _totals(n, 0.1, seed=1)
    generator = torch.Generator().manual_seed(seed)
    swaps = torch.cat([torch.randint(2, (size, n), generator=generator) for size in (512, 488)]).numpy()
    moved = swaps @ (b - a)[:, 0]
    as_far = np.abs((b - a).sum() - 2 * moved) >= np.abs((b - a).sum()) - 1e-9
    assert paired_permutation(a, b, _total, n_permutations=1_000, seed=seed) == (as_far.sum() + 1) / 1_001


def test_equal_arms_have_p_1_and_other_patients_are_refused() -> None:
    a, _ = _totals(30)
    assert paired_permutation(a, a, _total) == 1
    with pytest.raises(ValueError, match=r"totals of shapes \[30, 1\] and \[29, 1\]"):
        paired_permutation(a, a[1:], _total)


def test_p_values_are_uniform_where_nothing_differs() -> None:
    found = [paired_permutation(*_totals(10, seed=seed), _total, n_permutations=1024) for seed in range(120)]
    assert 0.01 <= sum(p <= 0.05 for p in found) / len(found) <= 0.12
    assert 0.35 <= sum(p <= 0.5 for p in found) / len(found) <= 0.65


def test_holm_against_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([math.nan, 0.6, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.6, 0.04])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lowers_nothing_keeps_the_order_and_stays_in_0_1(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
