"""Measures of a review: agreement of two readers, words changed by an edit, share accepted. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexreason.statistics.bootstrap import wilson
from chexreason.statistics.metrics import FloatArray


def cohen_kappa(tables: FloatArray) -> FloatArray:
    """Cohen's kappa [...] of contingency tables [..., K, K]; NaN where they are empty or chance alone agrees fully.

    Source: Cohen 1960, A coefficient of agreement for nominal scales.
    """
    n = tables.sum(axis=(-2, -1))
    expected_n2 = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed, expected = np.trace(tables, axis1=-2, axis2=-1) / n, expected_n2 / n**2
        found: FloatArray = np.where(1 - expected > 1e-12, (observed - expected) / (1 - expected), np.nan)
    return found


def kappa_interval(
    tables: FloatArray, times: NDArray[np.int64], n_resamples: int, rng: np.random.Generator, needed: float = 0.0
) -> tuple[float, float]:
    """The 95 % percentile interval of ``cohen_kappa`` over resamples of patients; NaN where resampling gives none.

    ``tables`` [U, K, K] holds one patient of each kind, ``times`` [U] how many patients are of that kind. Resamples
    without a kappa are left out. Fewer than two patients have no interval; neither has a figure of which less than the
    share ``needed`` of the resamples has a kappa.
    """
    if times.sum() < 2:
        return np.nan, np.nan
    # How often each kind is drawn is one multinomial: in distribution the same as drawing patients one by one.
    weights = rng.multinomial(times.sum(), times / times.sum(), size=n_resamples)  # [R, U]
    draws = cohen_kappa(np.tensordot(weights, tables, axes=1))  # [R]
    defined = draws[~np.isnan(draws)]
    if not len(defined) or len(defined) < needed * len(draws):
        return np.nan, np.nan
    low, high = np.quantile(defined, (0.025, 0.975)).tolist()
    return low, high


def kappa(
    first: Sequence[str],
    second: Sequence[str],
    patients: Sequence[str],
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Agreement of two readers on the same traces, in the same order; ``patients`` says whose each trace is.

    ``value`` is Cohen's kappa, ``low`` and ``high`` its 95 % percentile interval over resamples of patients, each with
    all of his traces, ``observed`` the plain share of equal verdicts. None where a figure is not defined: kappa where
    both readers gave one and the same verdict throughout, the bounds where there are fewer than two patients or no
    resample defines it. Raises ValueError on no traces and on lengths that differ.
    """
    if not len(first) == len(second) == len(patients) > 0:
        raise ValueError(f"two readers of the same traces, at least one: {len(first)}, {len(second)}, {len(patients)}")
    codes, verdicts = pd.factorize(np.array([*first, *second], dtype=object))
    owner, names = pd.factorize(np.array(patients, dtype=object))  # numbered as they come: the draws depend on it
    tables = np.zeros((len(names), len(verdicts), len(verdicts)))  # [P, K, K]
    np.add.at(tables, (owner, *np.split(codes, 2)), 1)
    total = tables.sum(axis=0)
    each = np.ones(len(names), dtype=np.int64)
    low, high = kappa_interval(tables, each, n_resamples, np.random.default_rng(seed))
    figures = {"value": float(cohen_kappa(total)), "low": low, "high": high}
    return {name: None if np.isnan(figure) else figure for name, figure in figures.items()} | {
        "observed": float(np.trace(total) / total.sum()),
        "n": len(first),
        "n_patients": len(names),
    }


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
    low, high = wilson(k, n) if n else (None, None)
    return {"n": n, "accepted": k, "rate": k / n if n else None, "low": low, "high": high}
