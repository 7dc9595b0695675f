"""Ranking or operating point, as a page: how arms order studies, what re-fitted thresholds give, how changes split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from chexreason.labels.schema import LabelSet
from chexreason.reports.provenance import GROUND, Ground
from chexreason.reports.tables import MISSING, Cell, Table, table_latex
from chexreason.statistics.bootstrap import Interval, Replicates, intervals, paired, replicates, seed_mean
from chexreason.statistics.operating_point import N_FOLDS, Refit, refit, split_change
from chexreason.statistics.predictions import datasets, evaluated_labels
from chexreason.statistics.ranking import ranking_replicates
from chexreason.statistics.score_files import aligned
from chexreason.types import Prediction

Scored = Mapping[str, Sequence[tuple[Sequence[Prediction], pd.DataFrame]]]  # of each arm, each seed's answers, scores
MACRO = ("macro_auroc", "macro_average_precision", "macro_brier", "macro_ece")
READING = (
    "Scores order studies; answers also choose how many to name. `own` is the macro-F1 of the arm's answers, "
    "`re-fitted` that of its scores cut at thresholds fitted on at most {patients} other patients of the same set "
    f"({N_FOLDS} folds, fitted thresholds taken as they are). A change splits exactly into `ranking`, the change "
    "between the arms at re-fitted thresholds, and `operating point`, the rest. Intervals are 95 % over patients, from "
    "{resamples:,} resamples; a change whose interval holds 0 is not shown to be one. That of average precision is the "
    "basic one (reflected about the figure): a patient drawn twice ties with itself, which raises every resample. ECE "
    "rises still more and has no interval here; compare it between arms of one table only."
)


@dataclass(frozen=True)
class Sight:
    """One arm on one data set: ranking and calibration of its scores, and F1 of its ``own`` answers and ``refitted``.

    ``refitted`` is None where there are too few patients to fit thresholds on.
    """

    ranking: Replicates
    own: Replicates
    refitted: Replicates | None


@dataclass(frozen=True)
class View:
    """All arms on one data set, in order; ``lacking`` says of those that lack something what and why."""

    dataset: str
    arms: Mapping[str, Sight | None]
    lacking: tuple[str, ...]


def see(
    arms: Scored,
    dataset: str,
    label_set: LabelSet,
    *,
    kind: str,
    fit_patients: int = 50,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> View:
    """Every arm on ``dataset``, the mean over its seeds; ``kind`` of scores is frequency or log_odds."""
    found: dict[str, Sight | None] = {}
    lacking = []
    for arm, seeds in arms.items():
        rankings, own, refitted = [], [], []
        for predictions, frame in seeds:
            rows = datasets(predictions).get(dataset, [])
            if not rows:
                continue
            labels = evaluated_labels(rows, label_set)
            scores = aligned(frame, rows, labels, kind)
            rankings.append(ranking_replicates(scores, rows, labels, kind=kind, n_resamples=n_resamples, seed=seed))
            own.append(replicates(rows, labels, n_resamples, seed))
            if own[-1].n_patients >= N_FOLDS:
                points = refit(scores, rows, labels, fit_patients=fit_patients, n_resamples=n_resamples, seed=seed)
                refitted.append(points.refitted)
        if not own:
            found[arm] = None
            lacking.append(f"{arm}, no answers at {dataset}")
            continue
        found[arm] = Sight(seed_mean(rankings), seed_mean(own), seed_mean(refitted) if refitted else None)
        if not refitted:
            lacking.append(f"{arm} re-fitted, {own[0].n_patients} patients are fewer than the {N_FOLDS} folds")
    return View(dataset, found, tuple(lacking))


def sight_table(view: View, basis: str = "") -> Table:
    """One row an arm."""
    rows = []
    for arm, sight in view.arms.items():
        figures = _figures(sight) if sight else {}
        names = ("macro_f1_own", "macro_f1_refitted", *MACRO)
        rows.append((Cell(arm), *(_cell(figures.get(name)) for name in names)))
    header = ("arm", "macro-F1, own", "re-fitted", "macro AUROC", "average precision", "Brier", "ECE")
    return Table(f"Sight and thresholds at {view.dataset}", header, tuple(rows), basis=basis)


def step_table(view: View) -> Table:
    """One row a pair of arms (earlier before later)."""
    rows = []
    for a, b in combinations(view.arms, 2):
        rows.append((Cell(f"{a} → {b}"), *(_cell(x, "+") for x in _step(view.arms[a], view.arms[b]))))
    header = ("step", "change", "ranking", "operating point", "change in AUROC")
    return Table(f"Changes in macro-F1 at {view.dataset}, split", header, tuple(rows))


def sight_page(views: Sequence[View], ground: Ground, kind: str, fit_patients: int, n_resamples: int) -> str:
    """The tables of all data sets as Markdown, and how to read them."""
    parts = [f"# Ranking or operating point? (scores: {kind})"]
    parts += [READING.format(patients=fit_patients, resamples=n_resamples), ground.sentence()]
    for view in views:
        parts += [table.markdown() for table in (sight_table(view), step_table(view)) if table.rows]
        parts += [_missing(view)] if view.lacking else []
    return "\n\n".join(parts) + "\n"


def sight_latex(views: Sequence[View], ground: Ground) -> str:
    """The table of each data set's arms as LaTeX."""
    return "\n".join(
        table_latex(sight_table(view, ground.sentence()), f"ranking-{view.dataset}", _missing(view)) for view in views
    )


def sight_csv(views: Sequence[View], ground: Ground, kind: str) -> str:
    """One figure a line, of every label and of their mean ("macro"); an arm without answers has one line, missing."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = ("arm", "dataset", "label", "measure", "value", "low", "high", "scores", "status", *GROUND)
    writer.writerow(header)
    for view in views:
        for arm, sight in view.arms.items():
            if sight is None:
                writer.writerow((arm, view.dataset, *[""] * 5, kind, "missing", *[""] * len(GROUND)))
                continue
            for label, measure, figure in _lines(sight):
                numbers = ("" if x != x else f"{x:.6f}" for x in (figure.value, figure.low, figure.high))  # NaN: ""
                line = (arm, view.dataset, label, measure, *numbers, kind, "measured", *ground.cells(view.dataset))
                writer.writerow(line)
    return file.getvalue()


def _figures(sight: Sight) -> dict[str, Interval]:
    """Every figure of an arm: ``<measure>/<label>`` and ``macro_<measure>``."""
    figures = intervals(sight.ranking)
    for point, sample in (("own", sight.own), ("refitted", sight.refitted)):
        for name, figure in intervals(sample).items() if sample else ():
            if name == "macro_f1" or name.startswith("f1/"):
                measure, _, label = name.partition("/")
                figures[f"{measure}_{point}" + (f"/{label}" if label else "")] = figure
    return figures


def _lines(sight: Sight) -> Iterator[tuple[str, str, Interval]]:
    for name, figure in _figures(sight).items():
        measure, _, label = name.partition("/")
        yield label or "macro", measure.removeprefix("macro_"), figure


def _step(a: Sight | None, b: Sight | None) -> tuple[Interval | None, ...]:
    """Change, its part by ranking and by operating point, and change in AUROC; None where an arm lacks them."""
    if a is None or b is None:
        return (None,) * 4
    moved = paired(a.ranking, b.ranking)["macro_auroc"]
    if a.refitted is None or b.refitted is None:
        return paired(a.own, b.own)["macro_f1"], None, None, moved
    split = split_change(Refit(a.own, a.refitted), Refit(b.own, b.refitted))
    return split.total, split.ranking, split.operating_point, moved


def _missing(view: View) -> str:
    return f"{MISSING} missing: {'; '.join(view.lacking)}." if view.lacking else ""


def _cell(figure: Interval | None, sign: str = "") -> Cell:
    if figure is None:
        return Cell(MISSING)
    if figure.value != figure.value:  # NaN
        return Cell("undefined")
    bounds = "" if figure.low != figure.low else f"[{figure.low:{sign}.3f}, {figure.high:{sign}.3f}]"
    return Cell(f"{figure.value:{sign}.3f}", bounds)
