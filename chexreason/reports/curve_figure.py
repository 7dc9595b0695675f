"""The paper's Figures 1 to 3 from the metric files of our runs: raw values faint, moving average (0.95) strong."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from chexreason.files import write_text
from chexreason.reports.figure_style import STYLE, save
from chexreason.reports.figures import COLOURS
from chexreason.reports.history import Curve, ema

_PART = "train/reward/"
_GRPO = (("Total reward", "train/reward"), ("Completion length, tokens", "train/completion_length"))
_ACROSS = 3  # panels in a row


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


def draw_curves(
    name: str, runs: Mapping[str, Mapping[str, Curve]], stem: Path, not_run: Sequence[str] = ()
) -> list[Path]:
    """Writes ``<stem>.svg``, ``.png`` and ``.csv`` of the figure ``name``; ``runs`` maps each run to its curves.

    ``not_run`` are named in the title. Raises ValueError where no run logged any of the figure's columns.
    """
    chosen = FIGURES[name]
    panels = [*chosen.panels, *(_parts(runs) if chosen.parts else [])]
    panels = [(title, column) for title, column in panels if any(column in curves for curves in runs.values())]
    if not panels:
        raise ValueError(f"{name}: none of {', '.join(runs)} logged {' or '.join(c for _, c in chosen.panels)}")
    with mpl.rc_context(STYLE):
        across = min(_ACROSS, len(panels))
        down = -(-len(panels) // across)
        figure = Figure(figsize=(3.6 * across, 2.6 * down + 0.4), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).ravel().tolist()
        for panel, (title, column) in zip(grid, panels, strict=False):
            _draw(panel, title, column, runs)
        for unused in grid[len(panels) :]:
            unused.set_visible(False)
        missing = f" (not run: {', '.join(not_run)})" if not_run else ""
        figure.suptitle(chosen.title + missing, fontsize=10, parse_math=False)
        paths = save(figure, stem)
    csv_path = stem.with_name(f"{stem.name}.csv")
    write_text(csv_path, _csv(name, runs, [column for _, column in panels]))
    return [*paths, csv_path]


def _parts(runs: Mapping[str, Mapping[str, Curve]]) -> list[tuple[str, str]]:
    columns = dict.fromkeys(column for curves in runs.values() for column in curves if column.startswith(_PART))
    return [(f"Reward part: {column.removeprefix(_PART)}", column) for column in columns]


def _draw(panel: Axes, title: str, column: str, runs: Mapping[str, Mapping[str, Curve]]) -> None:
    for i, (run, curves) in enumerate(runs.items()):
        if column in curves:
            curve, colour = curves[column], COLOURS[(i + 1) % len(COLOURS)]
            panel.plot(curve.steps, curve.values, color=colour, linewidth=0.7, alpha=0.3)
            panel.plot(curve.steps, ema(curve.values), color=colour, linewidth=1.6, label=run)
    panel.set_title(title, parse_math=False)
    panel.set_xlabel("step")
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(runs) > 1:
        panel.legend()


def _csv(name: str, runs: Mapping[str, Mapping[str, Curve]], columns: Sequence[str]) -> str:
    """Every point drawn: figure, run, column, step, raw, ema."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("figure", "run", "column", "step", "raw", "ema"))
    for run, curves in runs.items():
        for column in columns:
            if column in curves:
                curve = curves[column]
                for step, raw, smooth in zip(curve.steps, curve.values, ema(curve.values), strict=True):
                    writer.writerow((name, run, column, int(step), f"{raw:.6g}", f"{smooth:.6g}"))
    return file.getvalue()
