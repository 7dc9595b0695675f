"""The prevalence of each label among studies, and a bar chart of a pool and the samples drawn from it."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any

from chexreason.labels.schema import LabelSet
from chexreason.types import Study

_COLOURS = ("#b8bcc2", "#1f5fa8", "#d1762b", "#3f8f5b", "#8a4fa3")  # the pool is grey, then one a split


def prevalence_of(studies: Collection[Study], label_set: LabelSet) -> dict[str, float]:
    """Share of positives among the studies that judge a label, by label in order; 0 where none does."""
    positives = [sum(study.target[i] for study in studies) for i in range(len(label_set))]
    judged = [sum(study.mask[i] for study in studies) for i in range(len(label_set))]
    return {label: p / n if n else 0.0 for label, p, n in zip(label_set, positives, judged, strict=True)}


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
