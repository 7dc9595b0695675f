"""Charts of a study as inline SVG that follows the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from chexreason.reports.figures import PALETTE, STYLE, by_step, drawing
from chexreason.reports.history import Curve, ema
from chexreason.reports.study_tables import arm_title, best_trivial, data_sets
from chexreason.statistics.comparable import label_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#010203"  # replaced by currentColor, so that the page's text colour reaches the axes
_INKED = ("axes.edgecolor", "text.color", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
_PAGE_STYLE = STYLE | dict.fromkeys(_INKED, _INK) | {"font.size": 10, "grid.alpha": 0.15, "legend.fontsize": 9}
# (title, columns in metrics.csv; a trailing "*" takes every column that starts so), one chart each where logged
_CHARTS = (
    ("Loss", ("train/loss", "val/loss")),
    ("Token accuracy", ("train/token_accuracy", "val/token_accuracy")),
    ("Total reward", ("train/reward",)),
    ("Reward by part", ("train/reward/*",)),
    ("KL to the reference policy", ("train/kl",)),
    ("Entropy", ("train/entropy",)),
    ("Completion length, tokens", ("train/completion_length",)),
    ("Clipped tokens, fraction", ("train/clip_fraction*",)),
    ("Validation macro-F1", ("val/*/macro_f1",)),
)


def transfer_charts(figures: Mapping[str, Any]) -> Iterator[str]:
    """Macro-F1 of every arm with its interval, a chart a data set on one scale, the best trivial row dashed."""
    arms = figures["arms"]
    scores = [by_set["macro_f1"] for sets in arms.values() for by_set in sets.values()]
    top = max([score["high"] or score["value"] for score in scores] + [0.1])
    for name in data_sets(figures):
        floor, row = best_trivial(figures, name)
        with drawing(_PAGE_STYLE, (4.4, 2.7)) as (figure, (panel,)):
            for x, arm in enumerate(arms):
                if name in arms[arm]:
                    _whisker(panel, x, arms[arm][name]["macro_f1"], PALETTE[x % len(PALETTE)])
            panel.axhline(floor, color=_INK, linewidth=1, linestyle="--", alpha=0.6)
            panel.set_title(name)
            facts = figures["sets"][name]
            stands_on = wrap(f"{label_count(facts)}, label policy {facts['policy']}", 56)
            below = [f"dashed: best trivial answer, {row} ({floor:.3f})", *stands_on]
            panel.set_xlabel("\n".join(below), fontsize=8.5, parse_math=False)
            panel.set_ylabel("macro-F1")
            panel.set_xticks(range(len(arms)), [arm_title(arm) for arm in arms])
            panel.set_xlim(-0.5, len(arms) - 0.5)
            panel.set_ylim(0, max(top, floor) * 1.12)
            panel.grid(axis="x", visible=False)
            yield _svg(figure, f"Macro-F1 of every arm with its 95 % interval at {name}")


def curve_charts(curves: Mapping[str, Curve], run: str) -> Iterator[str]:
    """One chart for each of ``_CHARTS`` that the run ``run`` logged: raw values faint, moving average (0.95) strong."""
    for title, patterns in _CHARTS:
        chosen = [name for name in curves for pattern in patterns if fnmatchcase(name, pattern)]
        if not chosen:
            continue
        with drawing(_PAGE_STYLE, (3.6, 2.4)) as (figure, (panel,)):
            for colour, name in zip(PALETTE[1:] + PALETTE[:1], chosen, strict=False):
                _line(panel, curves[name], colour, _short(name))
            panel.set_title(f"{run}: {title}")
            by_step(panel)
            if len(chosen) > 1:
                panel.legend()
            yield _svg(figure, f"{title} of {run} by training step")


def week_chart(weeks: pd.DataFrame) -> str:
    """Call rates by week (``film_rows.by_week``) of the labels that are called most; those by cut dashed."""
    means = weeks.groupby("label")["rate"].max().sort_values(ascending=False)
    with drawing(_PAGE_STYLE, (8.0, 3.0)) as (figure, (panel,)):
        for colour, label in zip(PALETTE, means.index, strict=False):
            for decision, own in weeks[weeks["label"] == label].groupby("decision"):
                style, name = ("-", label) if decision == "answer" else ("--", None)
                panel.plot(pd.to_datetime(own["week"]), own["rate"], style, color=colour, marker="o", label=name)
        panel.set_ylabel("share of films")
        panel.legend()
        figure.autofmt_xdate()
        return _svg(figure, "Share of films with each label by week")


def _whisker(panel: Axes, x: int, score: Mapping[str, Any], colour: str) -> None:
    panel.plot([x], [score["value"]], marker="o", markersize=8, color=colour)
    if score["low"] is not None:
        panel.plot([x, x], [score["low"], score["high"]], color=colour, linewidth=3, solid_capstyle="round", alpha=0.6)
    top = score["value"] if score["high"] is None else score["high"]
    panel.annotate(f"{score['value']:.3f}", (x, top), (0, 5), textcoords="offset points", ha="center", fontsize=9.5)


def _line(panel: Axes, curve: Curve, colour: str, label: str) -> None:
    if len(curve.values) < 20:  # too few points to smooth
        panel.plot(curve.steps, curve.values, color=colour, marker="o", markersize=3.5, label=label)
        return
    panel.plot(curve.steps, curve.values, color=colour, linewidth=0.8, alpha=0.3)
    panel.plot(curve.steps, ema(curve.values), color=colour, linewidth=1.8, label=label)


def _short(name: str) -> str:
    if name.endswith("/macro_f1"):
        return name.split("/")[1]
    return name.removeprefix("train/reward/").replace("train/", "train ").replace("val/", "validation ")


def _svg(figure: Figure, alt: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return _own_ids(text, alt)


def _own_ids(svg: str, alt: str) -> str:
    """The SVG with ids of its own among the charts of a page, a text alternative, and no fixed size."""
    prefix = re.sub(r"\W+", "-", alt)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", svg)
    for _ in ("width", "height"):
        svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
