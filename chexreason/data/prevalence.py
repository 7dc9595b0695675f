"""The prevalence of each label among studies or in a pool, and a bar chart of a pool and the samples drawn from it."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import LabelPolicy, resolve
from chexreason.types import Study

_COLOURS = ("#b8bcc2", "#1f5fa8", "#d1762b", "#3f8f5b", "#8a4fa3")  # the pool is grey, then one a split


def prevalence_of(studies: Collection[Study], label_set: LabelSet) -> dict[str, float]:
    """Share of positives among the studies that judge a label, by label in order; 0 where none does."""
    positives = [sum(study.target[i] for study in studies) for i in range(len(label_set))]
    judged = [sum(study.mask[i] for study in studies) for i in range(len(label_set))]
    return {label: p / n if n else 0.0 for label, p, n in zip(label_set, positives, judged, strict=True)}


def pool_marks(pool: pd.DataFrame) -> dict[str, object]:
    """What ``prepare`` records of a pool before it samples: its ``images``, and by label how many have each mark.

    ``pool`` holds rows of a manifest; ``marks`` counts 1, 0, -1 and blank, in this order, whatever the policy.
    """
    marks = {label: [int((pool[label] == mark).sum()) for mark in (1, 0, -1)] for label in CHEXPERT14}
    return {"images": len(pool), "marks": {label: [*n, len(pool) - sum(n)] for label, n in marks.items()}}


def pool_counts(
    pool: Mapping[str, Any], policy: LabelPolicy, labels: Collection[str] = CHEXPERT14.labels
) -> dict[str, tuple[int, int]]:
    """By label of CheXpert's 14, the positive and the judged images of a recorded pool under ``policy``.

    A label without a mark in the pool, or outside ``labels``, is judged in none.
    """
    counts = np.array([pool["marks"][label] for label in CHEXPERT14]).T  # [4, L]
    raw = np.repeat([[1.0], [0.0], [-1.0], [np.nan]], len(CHEXPERT14), axis=1)  # [4, L]
    labelled = counts[:3].any(axis=0) & np.isin(CHEXPERT14.labels, list(labels))  # [L]
    target, mask = resolve(raw, policy, labelled)  # [4, L], [4, L]
    found = zip((target * counts).sum(axis=0).tolist(), (mask * counts).sum(axis=0).tolist(), strict=True)
    return dict(zip(CHEXPERT14, found, strict=True))


def prevalence_png(report: Mapping[str, Any]) -> bytes:
    """A bar chart, as PNG, of the share of positives by label: the pool's and each split's, with the share aimed at.

    ``report`` is a selection's: ``pool`` and ``splits.<name>`` with ``images`` and ``share`` by label, ``min_share``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # the import takes half a second
    from matplotlib.figure import Figure

    groups = {"pool": report["pool"], **report["splits"]}
    labels = list(report["pool"]["share"])
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(groups)
    for i, (name, group) in enumerate(groups.items()):
        offsets = [place + (i - (len(groups) - 1) / 2) * width for place in range(len(labels))]
        heights = [100 * group["share"][label] for label in labels]
        colour = _COLOURS[i % len(_COLOURS)]
        axes.bar(offsets, heights, width, label=f"{name} ({group['images']:,} images)", color=colour)
    floor = 100 * report["min_share"]
    axes.axhline(floor, color="black", linewidth=0.8, linestyle="--", label=f"least share aimed at ({floor:g} %)")
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
    axes.set_ylabel("images with the label (%)")
    axes.set_title("Prevalence before and after selection (only positive labels count)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png", metadata={"Software": None})
    return buffer.getvalue()
