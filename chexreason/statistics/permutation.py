"""The paired permutation test of two arms, which swaps patients between them, and Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from chexreason.statistics.metrics import FloatArray

_CHUNK = 512  # relabellings at a time


def paired_permutation(
    a: FloatArray,
    b: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    n_permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of ``statistic(b) - statistic(a)`` if a coin had dealt each patient's two answers.

    ``a`` and ``b`` are the patient totals [P, C] of the arms, ``statistic`` maps summed totals [R, C] to [R]. Patients
    on whom the arms agree change nothing. All relabellings are tried where there are at most ``n_permutations``,
    otherwise as many are drawn and the observed one counts as one of them (Phipson and Smyth 2010), so that p > 0.
    Raises ValueError when the arms have different patients.
    """
    if a.shape != b.shape:
        raise ValueError(f"cannot swap patients between totals of shapes {list(a.shape)} and {list(b.shape)}")
    total_a, total_b, change = a.sum(axis=0), b.sum(axis=0), b - a
    change = change[(change != 0).any(axis=1)]  # [K, C], K patients on whom the arms differ
    observed = np.abs(statistic(total_b[None]) - statistic(total_a[None]))
    threshold = observed - 1e-12 * (1 + observed)  # sums in another order differ in the last bit
    exact = 2 ** len(change) <= n_permutations
    swaps = _all(len(change)) if exact else _drawn(len(change), n_permutations, seed)
    as_far = n = 0
    for chosen in swaps:  # [R, K]
        moved = chosen @ change  # [R, C]
        differences = statistic(total_b - moved) - statistic(total_a + moved)
        as_far += int((np.abs(differences) >= threshold).sum())
        n += len(chosen)
    return as_far / n if exact else (as_far + 1) / (n + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm 1979), in the order given; NaN is no test and stays NaN."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p == p)
    adjusted, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


def _all(n: int) -> Iterator[FloatArray]:
    """Every subset of ``n`` patients, as rows [R, n] of zeros and ones."""
    for start in range(0, 2**n, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, 2**n))
        yield (numbers[:, None] >> np.arange(n) & 1).astype(np.float64)


def _drawn(n: int, n_permutations: int, seed: int) -> Iterator[FloatArray]:
    """``n_permutations`` random subsets of ``n`` patients; the draws are those of torch's CPU generator."""
    rng = np.random.RandomState(seed % 2**32)  # MT19937 as torch seeds it, one raw number a draw
    for start in range(0, n_permutations, _CHUNK):
        size = min(_CHUNK, n_permutations - start)
        yield rng.randint(2, size=(size, n), dtype=np.uint32).astype(np.float64)
