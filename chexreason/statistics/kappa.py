"""Measures of a review: agreement of two readers, words changed by an edit, share accepted. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa with its 95 % interval over resampled patients, and the plain share of equal verdicts.

    None where a figure is not defined: kappa where both readers gave one and the same verdict throughout, the bounds
    where there are fewer than two patients or no resample defines it.
    """

    value: float | None
    low: float | None
    high: float | None
    observed: float
    n: int
    n_patients: int


def cohen_kappa(table: np.ndarray) -> np.ndarray:
    """Cohen's kappa [...] of contingency tables [..., K, K]; NaN where chance alone would agree fully.

    Source: Cohen 1960, A coefficient of agreement for nominal scales.
    """
    n = table.sum(axis=(-2, -1))
    observed = np.trace(table, axis1=-2, axis2=-1) / n
    expected = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / n**2
    room = 1 - expected
    defined = room > 1e-12
    return np.where(defined, (observed - expected) / np.where(defined, room, 1.0), np.nan)


def kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    patients: Sequence[str],
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Kappa:
    """Agreement of two readers on the same traces, in the same order; ``patients`` says whose each trace is.

    The interval is the percentile one over resamples of patients, each with all of his traces. Raises ValueError on
    no traces and on lengths that differ.
    """
    if not len(first) == len(second) == len(patients) > 0:
        raise ValueError(f"two readers of the same traces, at least one: {len(first)}, {len(second)}, {len(patients)}")
    code = {verdict: i for i, verdict in enumerate(dict.fromkeys([*first, *second]))}
    owner = {patient: i for i, patient in enumerate(dict.fromkeys(patients))}
    tables = np.zeros((len(owner), len(code), len(code)))  # [P, K, K]
    for a, b, patient in zip(first, second, patients, strict=True):
        tables[owner[patient], code[a], code[b]] += 1
    total = tables.sum(axis=0)
    weights = np.random.default_rng(seed).multinomial(len(owner), np.full(len(owner), 1 / len(owner)), n_resamples)
    draws = cohen_kappa(np.tensordot(weights, tables, axes=1))  # [R]
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, (0.025, 0.975)) if len(owner) > 1 and len(draws) else (np.nan, np.nan)
    return Kappa(
        value=_known(cohen_kappa(total)),
        low=_known(low),
        high=_known(high),
        observed=float(np.trace(total) / total.sum()),
        n=len(first),
        n_patients=len(owner),
    )


def word_distance(before: str, after: str) -> int:
    """Words inserted, deleted or replaced to get from one text to the other (Levenshtein distance over words)."""
    a, b = before.split(), after.split()
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        above, row = row, [i]
        for j, other in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def share(k: int, n: int) -> dict[str, float | int | None]:
    """``k`` of ``n`` as a rate with its 95 % Wilson interval; the rate and its bounds are None where ``n`` is 0."""
    if n == 0:
        return {"n": 0, "accepted": 0, "rate": None, "low": None, "high": None}
    rate, spread = k / n, _Z**2 / n
    middle = (rate + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(rate * (1 - rate) / n + spread / (4 * n))
    return {"n": n, "accepted": k, "rate": rate, "low": max(0.0, middle - half), "high": min(1.0, middle + half)}


def _known(value: float | np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
