"""Arms by what they score at home and away: who is better at one without being worse at the other."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from chexreason.files import write_text
from chexreason.reports.figure_style import STYLE, save
from chexreason.reports.figures import COLOURS
from chexreason.statistics.bootstrap import Interval

Points = Mapping[str, tuple[Interval, Interval]]  # of each arm, its score at home and away


def front(points: Points) -> list[str]:
    """Arms that no other arm matches or beats at both places while beating them at one, best at home first."""
    scores = {arm: (home.value, away.value) for arm, (home, away) in points.items()}
    best = [arm for arm, own in scores.items() if not any(_beats(other, own) for other in scores.values())]
    return sorted(best, key=lambda arm: (-scores[arm][0], -scores[arm][1], arm))


def draw_pareto(points: Points, stem: Path, *, home: str, away: str, statistic: str, title: str) -> list[Path]:
    """Writes ``<stem>.svg``, ``.png`` and ``.csv``: a cross of intervals for each arm, the front joined by a line."""
    best = front(points)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        panel = figure.subplots()
        joined = [(points[arm][0].value, points[arm][1].value) for arm in best]
        panel.plot(*zip(*joined, strict=True), color="#999999", linewidth=1, linestyle="--", zorder=1)
        for i, (arm, (x, y)) in enumerate(points.items()):
            colour = COLOURS[i % len(COLOURS)]
            if not math.isnan(x.low):
                panel.plot([x.low, x.high], [y.value, y.value], color=colour, linewidth=2, alpha=0.5)
            if not math.isnan(y.low):
                panel.plot([x.value, x.value], [y.low, y.high], color=colour, linewidth=2, alpha=0.5)
            face = colour if arm in best else "white"
            panel.plot(
                [x.value], [y.value], marker="o", markersize=7, color=colour, markerfacecolor=face, zorder=3, label=arm
            )
        panel.set_title(title)
        panel.set_xlabel(f"{statistic} at home: {home}", parse_math=False)
        panel.set_ylabel(f"{statistic} away: {away}", parse_math=False)
        panel.legend(title="filled: no arm is better at both", title_fontsize=8)
        paths = save(figure, stem)
    csv_path = stem.with_name(f"{stem.name}.csv")
    write_text(csv_path, _csv(points, best))
    return [*paths, csv_path]


def _beats(other: tuple[float, float], own: tuple[float, float]) -> bool:
    return other != own and other[0] >= own[0] and other[1] >= own[1]


def _csv(points: Points, best: list[str]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("arm", "home", "home_low", "home_high", "away", "away_low", "away_high", "on_front"))
    for arm, places in points.items():
        figures = [x for place in places for x in (place.value, place.low, place.high)]
        writer.writerow((arm, *("" if math.isnan(x) else f"{x:.6f}" for x in figures), arm in best))
    return file.getvalue()
