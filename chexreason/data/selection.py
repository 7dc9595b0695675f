"""The paper's sets from a vendor's rows: SFT and RL by the sampler, validation at random, disjoint by patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chexreason.data.manifest import ManifestError, parameters
from chexreason.data.sampling import Draw, draw_samples, random_order
from chexreason.labels.catalog import CHEXPERT14

_LABELS = list(CHEXPERT14.labels)
SAMPLED = ("sft", "rl")


@dataclass(frozen=True, eq=False)
class Selected:
    """The rows a selection keeps, their ``split`` ours, a JSON-ready ``report``, and the ``pool`` it drew from."""

    frame: pd.DataFrame
    report: Mapping[str, object]
    pool: pd.DataFrame


@dataclass(frozen=True)
class PaperSelection:
    """``sft`` and ``rl`` images by the sampler of the paper and ``val`` at random, disjoint by patient.

    They come from the rows of ``pool_splits`` (the vendor's names) in one of ``views`` (null: any). Rows of
    ``test_split`` in those views become the split ``test``; with null, as every other row, they are left out.

    What the paper leaves open: of the images of one exam, which carry the same labels, one is in the pool, by seed; of
    one patient several images may be in a set, but only where the labels ask for it (``draw_samples``); validation is
    drawn first, so that it keeps the pool's prevalence (what the sampler leaves over does not), images without a
    positive label included; only raw marks of 1 count as positive, whatever the policy.
    """

    sft: int = 2000
    rl: int = 1000
    val: int = 500
    views: Sequence[str] | None = ("AP", "PA")
    min_share: float = 0.05
    seed: int = 0
    pool_splits: Sequence[str] = ("train",)
    test_split: str | None = None

    def __post_init__(self) -> None:
        for name in (*SAMPLED, "val"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} images to select; use 0 or more")
        if self.sft + self.rl < 1:
            raise ValueError("sft=0 and rl=0 select nothing to train on; use 1 or more")
        if not 0.0 <= self.min_share <= 1.0:
            raise ValueError(f"min_share={self.min_share} is a share of the images, 0..1 (the paper: 0.05)")
        for name in ("views", "pool_splits"):
            value = getattr(self, name)
            if isinstance(value, str) or (value is not None and not value) or (value is None and name != "views"):
                raise ValueError(f"{name}={value!r} is not a list of names, such as [AP, PA] or [train]")
        if self.test_split in self.pool_splits:
            raise ValueError(f"test_split={self.test_split} is also in pool_splits; a patient is in one or the other")

    @property
    def provenance(self) -> dict[str, object]:
        """Every parameter."""
        return {"selection": "paper", **parameters(self)}

    def apply(self, frame: pd.DataFrame, dataset: str) -> Selected:
        """The chosen rows of a conformed ``frame``, which stays unchanged, in its order.

        Raises ManifestError on a view or split that no row has and where the pool is too small.
        """
        seen = self._in_views(frame, dataset)
        pool = self._pool(seen, dataset)
        val = self._validation(pool, dataset)
        rest = pool[~pool["patient_id"].isin(val["patient_id"])]
        positive = rest[_LABELS].to_numpy(dtype=np.float64) == 1.0  # [N, 14]
        sizes = {name: n for name in SAMPLED if (n := getattr(self, name))}
        try:
            draw = draw_samples(
                positive, rest["patient_id"].tolist(), rest["study_id"].tolist(), sizes, self.min_share, self.seed
            )
        except ValueError as error:
            raise ManifestError(f"'{dataset}': {error}") from None
        chosen = {name: rest[draw.sample == s] for s, name in enumerate(sizes)}
        if self.val:
            chosen["val"] = val
        if self.test_split is not None:
            chosen["test"] = seen[seen["split"] == self.test_split]
        kept = pd.concat([rows.assign(split=name) for name, rows in chosen.items()]).sort_index()
        report = {
            **self.provenance,
            "pool": _prevalence(pool),
            "splits": {name: _prevalence(rows) for name, rows in chosen.items()},
            "proved_best": draw.optimal,
            "warnings": self._warnings(rest, sizes, draw),
        }
        return Selected(kept.reset_index(drop=True), report, pool)

    def _in_views(self, frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
        if self.views is None:
            return frame
        _require(frame, dataset, "view", self.views)
        return frame[frame["view"].isin(list(self.views))]

    def _pool(self, seen: pd.DataFrame, dataset: str) -> pd.DataFrame:
        """The rows to draw from: one of every exam, by seed; images without any mark are left out."""
        wanted = [*self.pool_splits, *([self.test_split] if self.test_split is not None else [])]
        _require(seen, dataset, "split", wanted, " to select")
        pool = seen[seen["split"].isin(list(self.pool_splits)) & seen[_LABELS].notna().any(axis=1)]
        exam = pool["exam_id"] if "exam_id" in pool else pd.Series("", index=pool.index)
        exam = exam.where(exam != "", pool["study_id"])  # an image without an exam is its own exam
        shuffled = random_order(pool["study_id"].tolist(), self.seed)
        return pool[~exam.iloc[shuffled].duplicated().reindex(pool.index)]

    def _validation(self, pool: pd.DataFrame, dataset: str) -> pd.DataFrame:
        if len(pool) < self.val:
            raise ManifestError(
                f"'{dataset}': val={self.val:,} images are asked for; the pool has {len(pool):,} of "
                f"{pool['patient_id'].nunique():,} patients: ask for less or widen the pool"
            )
        return pool.iloc[np.sort(random_order(pool["study_id"].tolist(), self.seed)[: self.val])]

    def _warnings(self, pool: pd.DataFrame, sizes: Mapping[str, int], draw: Draw) -> list[str]:
        """One a label and sample that stays under ``min_share``, with the achieved share and why."""
        available = (pool[_LABELS] == 1.0).sum()
        absent = [label for label in _LABELS if self.min_share and not available[label]]
        warnings = [f"0.0% of every sample: no image of the pool is positive for {', '.join(absent)}"] if absent else []
        search = "no draw brings all labels nearer" if draw.optimal else "the search for a better draw was cut short"
        for s, (name, size) in enumerate(sizes.items()):
            for i, label in enumerate(_LABELS):
                n, wanted = int(draw.count[s, i]), math.ceil(round(self.min_share * size, 9))
                if n >= wanted or label in absent:
                    continue
                first = f", and {SAMPLED[0]} comes first" if s else ""
                why = search if n < draw.goal[s, i] else f"there are {available[label]:,} to draw from{first}"
                warnings.append(
                    f"{name}: {label} is in {n / size:.1%} of the images ({n:,} of {size:,}), "
                    f"under the {self.min_share:.1%} aimed at: {why}"
                )
        return warnings


def _require(frame: pd.DataFrame, dataset: str, column: str, wanted: Sequence[str], why: str = "") -> None:
    """Raises ManifestError where no row has one of the ``wanted`` values of ``column``."""
    counts = frame[column].value_counts()
    unknown = [name for name in wanted if name not in counts.index]
    if unknown:
        have = ", ".join(f"{name or '(blank)'} {n:,}" for name, n in counts.items()) or "none"
        raise ManifestError(f"'{dataset}' has no image in {column} {', '.join(unknown)}{why}; its {column}s: {have}")


def _prevalence(rows: pd.DataFrame) -> dict[str, object]:
    """Size, and by label the positives and their share of the images (0 where there is no image)."""
    positives = (rows[_LABELS] == 1.0).sum()
    return {
        "images": len(rows),
        "patients": int(rows["patient_id"].nunique()),
        "positives": {label: int(positives[label]) for label in _LABELS},
        "share": {label: round(int(positives[label]) / max(len(rows), 1), 6) for label in _LABELS},
    }
