"""Agreement between two labellings of the same images: Cohen's kappa by label, its interval by patient."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from chexreason.audit.facts import resolved
from chexreason.data.manifest import Manifest
from chexreason.data.sources.tree import without_suffix
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.uncertainty import LabelPolicy
from chexreason.statistics.kappa import cohen_kappa, kappa_interval

CELLS = ("both", "first_only", "second_only", "neither")  # of the 2 x 2 table of a label, row by row
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
    cells = 2 * (target[rows] != 1) + (target_b[others] != 1)  # [M, 14], positions in CELLS
    patients, names = pd.factorize(first.frame["patient_id"].to_numpy()[rows])
    image, label = np.nonzero(mask[rows] & mask_b[others])  # [K] judged by both
    code = (patients[image] * len(CHEXPERT14) + label) * len(CELLS) + cells[image, label]
    totals = np.bincount(code, minlength=len(names) * cells.shape[1] * len(CELLS))
    totals = totals.reshape(len(names), cells.shape[1], len(CELLS))  # [P, 14, 4]
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


def _row(totals: npt.NDArray[np.int64], n_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Figures of one label from its patients' counts [P, 4]."""
    cells = totals.sum(axis=0)  # [4]
    counts = dict(zip(CELLS, cells.tolist(), strict=True))
    n = sum(counts.values())
    share = (counts["both"] + counts["neither"]) / n if n else None
    # A side that calls every image the same has a kappa of 0 in every resample: an interval of no width would mislead.
    varied = all(0 < counts["both"] + counts[side] < n for side in ("first_only", "second_only"))
    low, high = _interval(totals, n_resamples, rng) if varied else (np.nan, np.nan)
    bounds = {"kappa": float(cohen_kappa(cells.reshape(2, 2))), "low": low, "high": high}
    return {"n": n, **counts, "agreement": share} | {k: v if np.isfinite(v) else None for k, v in bounds.items()}


def _interval(totals: npt.NDArray[np.int64], n_resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Bounds of kappa over resamples of the patients of ``totals`` [P, 4], each drawn with all its images."""
    judged = totals[totals.any(axis=1)]
    code = judged @ (judged.max() + 1) ** np.arange(4)  # [P]; one number for equal counts sorts faster than rows
    _, some, times = np.unique(code, return_index=True, return_counts=True)  # [U], [U]
    return kappa_interval(judged[some].reshape(-1, 2, 2).astype(np.float64), times, n_resamples, rng, DEFINED)


def match(first: Manifest, second: Manifest) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], str, int]:
    """Row numbers [M] in ``first`` and [M] in ``second`` of the images both hold, how found, how many ambiguous."""
    for how, key in (("path", _paths), ("file name", _stems)):
        a, b = (pd.Series(np.arange(len(one.frame)), index=key(one)) for one in (first, second))  # row numbers by name
        shared = a.index.isin(b.index)
        if shared.any():
            a, b = (side[~side.index.duplicated(keep=False)] for side in (a, b))
            rows = a[a.index.isin(b.index)]
            return rows.to_numpy(), b[rows.index].to_numpy(), how, int(shared.sum()) - len(rows)
    nothing = np.empty(0, dtype=np.intp)
    return nothing, nothing, "nothing", 0


def _paths(manifest: Manifest) -> npt.NDArray[np.object_]:
    """Absolute paths; the root is resolved once, not every file: that would ask the disk 377,110 times."""
    root = manifest.root.resolve().as_posix()
    return np.array([f"{root}/{path}" for path in manifest.frame["path"]], dtype=object)


def _stems(manifest: Manifest) -> npt.NDArray[np.object_]:
    return np.array([without_suffix(PurePosixPath(path).name) for path in manifest.frame["path"]], dtype=object)
