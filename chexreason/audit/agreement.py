"""Agreement between two labellings of the same images: Cohen's kappa by label, its interval by patient."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from chexreason.audit.facts import resolved
from chexreason.data.manifest import Manifest
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.uncertainty import LabelPolicy

CELLS = ("both", "first_only", "second_only", "neither")
DEFINED = 0.95  # share of resamples that must have a kappa before an interval is given


def agreement(
    first: Manifest,
    second: Manifest,
    policies: tuple[LabelPolicy, LabelPolicy],
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Per-label agreement of two sets on the images they share, after each set's own policy.

    An image counts for a label where both sets judge it. The interval is the 95 % percentile interval over resamples
    of ``first``'s patients; None where kappa or the interval is undefined (a label both call constant, one patient).
    Images are matched by resolved path, else by file name without suffix; a name that occurs twice in a set matches
    nothing and is counted in ``ambiguous``.
    """
    rows, others, matched_by, ambiguous = match(first, second)
    (target, mask), (target_b, mask_b) = (resolved(m, p) for m, p in zip((first, second), policies, strict=True))
    on = (mask[rows] & mask_b[others])[..., None]  # [M, 14, 1]
    cells = _cells(target[rows], target_b[others]) & on  # [M, 14, 4]
    patients, names = pd.factorize(first.frame["patient_id"].to_numpy()[rows])
    totals = _patient_totals(cells, patients, len(names))  # [P, 14, 4]
    rng = np.random.default_rng(seed)
    labels = {label: _row(totals[:, i], n_resamples, rng) for i, label in enumerate(CHEXPERT14.labels)}
    return {
        "images": len(rows),
        "patients": len(names),
        "matched_by": matched_by,
        "ambiguous": ambiguous,
        "n_resamples": n_resamples,
        "labels": {label: row for label, row in labels.items() if row["n"]},
    }


def _row(totals: npt.NDArray[np.float64], n_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Figures of one label from its patients' counts [P, 4]."""
    cells = totals.sum(axis=0)  # [4]
    counts = dict(zip(CELLS, cells.astype(int).tolist(), strict=True))
    n = sum(counts.values())
    share = (counts["both"] + counts["neither"]) / n if n else None
    # A side that calls every image the same has a kappa of 0 in every resample: an interval of no width would mislead.
    varied = all(0 < counts["both"] + counts[side] < n for side in ("first_only", "second_only"))
    low, high = _interval(totals, n_resamples, rng) if varied else (float("nan"), float("nan"))
    bounds = {"kappa": _plain(float(kappa(cells))), "low": _plain(low), "high": _plain(high)}
    return {"n": n, **counts, "agreement": share, **bounds}


def match(first: Manifest, second: Manifest) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], str, int]:
    """Row numbers [M] in ``first`` and [M] in ``second`` of the images both hold, how found, how many ambiguous."""
    for how, key in (("path", _paths), ("file name", _stems)):
        codes, names = pd.factorize(np.concatenate([key(first), key(second)]))
        a, b = np.split(codes, [len(first.frame)])  # the same number for the same name
        in_a, in_b = (np.bincount(side, minlength=len(names)) for side in (a, b))
        shared = in_b[a] > 0
        if shared.any():
            rows = np.flatnonzero((in_a[a] == 1) & (in_b[a] == 1))
            place = np.zeros(len(names), dtype=np.intp)
            place[b] = np.arange(len(b))
            return rows, place[a[rows]], how, int(shared.sum()) - len(rows)
    nothing = np.empty(0, dtype=np.intp)
    return nothing, nothing, "nothing", 0


def kappa(cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cohen's kappa [...] of counts [..., 4] in the order of ``CELLS``; NaN where chance alone agrees always.

    Cohen, A coefficient of agreement for nominal scales, 1960.
    """
    both, first, second, neither = np.moveaxis(np.asarray(cells, dtype=np.float64), -1, 0)
    n = both + first + second + neither
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (both + neither) / n
        expected = ((both + first) * (both + second) + (neither + first) * (neither + second)) / n**2
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)


def _cells(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    yes, also = a == 1, b == 1
    return np.stack([yes & also, yes & ~also, ~yes & also, ~yes & ~also], axis=-1)


def _patient_totals(cells: npt.NDArray[np.bool_], patients: npt.NDArray[np.intp], n: int) -> npt.NDArray[np.float64]:
    flat = cells.reshape(len(cells), cells.shape[1] * cells.shape[2])  # [M, 56]
    columns = [np.bincount(patients, weights=flat[:, i], minlength=n) for i in range(flat.shape[1])]
    return np.stack(columns, axis=1).astype(np.float64).reshape(n, *cells.shape[1:])


def _interval(totals: npt.NDArray[np.float64], n_resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Bounds over resamples of the patients of ``totals`` [P, 4], each drawn with all its images.

    Patients with equal counts are interchangeable: how often each kind is drawn is one multinomial, which gives the
    same resamples as drawing P patients one by one and costs next to nothing at 65,379.
    """
    judged = totals[totals.sum(axis=1) > 0]
    if len(judged) < 2 or n_resamples < 1:
        return float("nan"), float("nan")
    code = judged @ (judged.max() + 1) ** np.arange(4)  # [P]; one number for equal counts sorts faster than rows
    _, some, times = np.unique(code, return_index=True, return_counts=True)  # [U], [U]
    kinds = judged[some]  # [U, 4]
    draws = rng.multinomial(len(judged), times / len(judged), size=n_resamples)  # [R, U]
    found = kappa(draws @ kinds)  # [R]
    if np.isfinite(found).mean() < DEFINED:
        return float("nan"), float("nan")
    low, high = np.nanquantile(found, (0.025, 0.975)).tolist()
    return low, high


def _paths(manifest: Manifest) -> npt.NDArray[np.object_]:
    """Absolute paths; the root is resolved once, not every file: that would ask the disk 377,110 times."""
    root = manifest.root.resolve().as_posix()
    return np.array([f"{root}/{path}" for path in manifest.frame["path"]], dtype=object)


def _stems(manifest: Manifest) -> npt.NDArray[np.object_]:
    return np.array([PurePosixPath(path).stem for path in manifest.frame["path"]], dtype=object)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
