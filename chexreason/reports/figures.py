"""Figures as files: the paper's curves and the Pareto plots; the same numbers give the same bytes (SVG, PNG, CSV)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from chexreason.files import write_bytes, write_text
from chexreason.reports.history import Curve, ema
from chexreason.reports.printed import MACRO, printed
from chexreason.reports.tables import csv_text
from chexreason.statistics.bootstrap import Interval

if TYPE_CHECKING:  # matplotlib is imported where something is drawn: it takes half a second that --help has not
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#7d8590", "#2f81c7", "#e0782f", "#2a9d76", "#9b6bd1", "#c7506f")  # distinct for the colour-blind too
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable
    "svg.hashsalt": "chexreason",  # element ids are salted at random otherwise
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
# DejaVu comes with matplotlib: the PNG does not depend on the machine's fonts.
_FILE_STYLE = STYLE | {"font.family": "DejaVu Sans", "font.size": 9, "grid.alpha": 0.2, "legend.fontsize": 8}
# Neither date nor version: files differ only where figures do.
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
_PART = "train/reward/"
_GRPO = (("Total reward", "train/reward"), ("Completion length, tokens", "train/completion_length"))
_ACROSS = 3  # panels in a row

Points = Mapping[str, tuple[Interval, Interval]]  # of each arm, its score at home and away


@dataclass(frozen=True)
class CurveFigure:
    """A figure of the paper: ``panels`` are (title, column of metrics.csv); ``parts`` adds one for each reward part."""

    title: str
    panels: tuple[tuple[str, str], ...]
    parts: bool = False


FIGURES = {
    "fig1": CurveFigure(
        "Figure 1: SFT arms", (("Token accuracy", "train/token_accuracy"), ("Training loss", "train/loss"))
    ),
    "fig2": CurveFigure("Figure 2: GRPO, nuanced reward", _GRPO, parts=True),
    "fig3": CurveFigure("Figure 3: GRPO, hard reward", _GRPO, parts=True),
}


@contextmanager
def drawing(
    style: Mapping[Any, Any], size: tuple[float, float], down: int = 1, across: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of ``size`` inches and its panels, row by row; it is drawn and saved under ``style``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(dict(style)):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots(down, across, squeeze=False).ravel().tolist()


def by_step(panel: Axes, unit: str = "step") -> None:
    """Labels the horizontal axis as training steps: at most five whole numbers."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel(unit)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def draw_curves(
    name: str,
    runs: Mapping[str, Mapping[str, Curve]],
    out: Path,
    not_run: Sequence[str] = (),
    studies: Mapping[str, int] | None = None,
) -> None:
    """Writes ``<out>/<name>.svg``, ``.png`` and ``.csv``: raw values faint, their moving average (0.95) strong.

    ``runs`` maps each run to its curves; ``not_run`` are named in the title. With ``studies``, each run's number of
    studies a rollout, the axis counts global steps as the paper does; the CSV has the logged rollouts, from 0.
    Raises ValueError where no run logged any of the figure's columns.
    """
    chosen = FIGURES[name]
    columns = dict.fromkeys(column for curves in runs.values() for column in curves)
    parts = [(f"Reward part: {c.removeprefix(_PART)}", c) for c in columns if chosen.parts and c.startswith(_PART)]
    panels = [(title, column) for title, column in (*chosen.panels, *parts) if column in columns]
    if not panels:
        raise ValueError(f"{name}: none of {', '.join(runs)} logged {' or '.join(c for _, c in chosen.panels)}")
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    with drawing(_FILE_STYLE, (3.6 * across, 2.6 * down + 0.4), down, across) as (figure, grid):
        for panel, (title, column) in zip(grid, panels, strict=False):
            _draw(panel, title, column, runs, studies or {})
        for unused in grid[len(panels) :]:
            unused.set_visible(False)
        missing = f" (not run: {', '.join(not_run)})" if not_run else ""
        figure.suptitle(chosen.title + missing, fontsize=10, parse_math=False)
        lines = [
            (name, run, column, int(step), f"{raw:.6g}", f"{smooth:.6g}")
            for run, curves in runs.items()
            for curve, column in ((curves[column], column) for _, column in panels if column in curves)
            for step, raw, smooth in zip(curve.steps, curve.values, ema(curve.values), strict=True)
        ]
        _save(figure, out / name, pd.DataFrame(lines, columns=["figure", "run", "column", "step", "raw", "ema"]))


def draw_pareto(points: Points, stem: Path, *, home: str, away: str, title: str, place: str = "home") -> None:
    """Writes ``<stem>.svg``, ``.png`` and ``.csv``: macro-F1 at home and away, an arm a cross of its two intervals.

    A line joins the front. ``place`` is "home", or what else the set ``home`` is.
    """
    best = front(points)
    with drawing(_FILE_STYLE, (5.2, 4.2)) as (figure, (panel,)):
        joined = [(points[arm][0].value, points[arm][1].value) for arm in best]
        panel.plot(*zip(*joined, strict=True), color="#999999", linewidth=1, linestyle="--", zorder=1)
        for i, (arm, (x, y)) in enumerate(points.items()):
            colour = PALETTE[i % len(PALETTE)]
            if not math.isnan(x.low):
                panel.plot([x.low, x.high], [y.value, y.value], color=colour, linewidth=2, alpha=0.5)
            if not math.isnan(y.low):
                panel.plot([x.value, x.value], [y.low, y.high], color=colour, linewidth=2, alpha=0.5)
            face = colour if arm in best else "white"
            panel.plot(
                [x.value], [y.value], marker="o", markersize=7, color=colour, markerfacecolor=face, zorder=3, label=arm
            )
        panel.set_title(title)
        panel.set_xlabel(f"macro-F1 at {place}: {home}", parse_math=False)
        panel.set_ylabel(f"macro-F1 away: {away}", parse_math=False)
        panel.legend(title="filled: no arm is better at both", title_fontsize=8)
        lines = [(arm, x.value, x.low, x.high, y.value, y.low, y.high, arm in best) for arm, (x, y) in points.items()]
        columns = ["arm", place, f"{place}_low", f"{place}_high", "away", "away_low", "away_high", "on_front"]
        _save(figure, stem, pd.DataFrame(lines, columns=columns))


def draw_printed(stem: Path) -> None:
    """``draw_pareto`` of the paper's models, as printed: without intervals."""
    home, away = printed("table5").rows[MACRO], printed("table6").rows[MACRO]
    points = {
        model: (Interval(home[model], math.nan, math.nan), Interval(away[model], math.nan, math.nan)) for model in home
    }
    title = "The paper's models, as printed"
    draw_pareto(points, stem, home="CheXpert, 14 labels", away="NIH, 9 labels", title=title, place="benchmark")


def front(points: Points) -> list[str]:
    """Arms that no other arm matches or beats at both places while beating them at one, best at home first."""
    scores = {arm: (home.value, away.value) for arm, (home, away) in points.items()}
    best = [
        arm
        for arm, (x, y) in scores.items()
        if not any(other != (x, y) and other[0] >= x and other[1] >= y for other in scores.values())
    ]
    return sorted(best, key=lambda arm: (-scores[arm][0], -scores[arm][1], arm))


def _draw(
    panel: Axes, title: str, column: str, runs: Mapping[str, Mapping[str, Curve]], studies: Mapping[str, int]
) -> None:
    for i, (run, curves) in enumerate(runs.items()):
        if column in curves:
            curve, colour = curves[column], PALETTE[(i + 1) % len(PALETTE)]
            steps = (curve.steps + 1) * studies[run] if studies else curve.steps
            panel.plot(steps, curve.values, color=colour, linewidth=0.7, alpha=0.3)
            panel.plot(steps, ema(curve.values), color=colour, linewidth=1.6, label=run)
    panel.set_title(title, parse_math=False)
    panel.ticklabel_format(axis="y", useOffset=False)
    by_step(panel, "global step (one study with its completions)" if studies else "step")
    if len(runs) > 1:
        panel.legend()


def _save(figure: Figure, stem: Path, frame: pd.DataFrame) -> None:
    """Write the figure as SVG and PNG (150 dpi) and the ``frame`` drawn as CSV; under the style, which has the salt."""
    for kind, metadata in _METADATA.items():
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
        write_bytes(stem.with_name(f"{stem.name}.{kind}"), file.getvalue())
    write_text(stem.with_name(f"{stem.name}.csv"), csv_text(frame))
