"""Ranking or operating point, as a page: how arms order studies, what re-fitted thresholds give, how changes split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from chexreason.files import write_text
from chexreason.labels.schema import LabelSet
from chexreason.reports.provenance import Origins, by_seed, common_ground
from chexreason.reports.tables import MISSING, Table, TableRow, csv_text, interval_cell
from chexreason.statistics.bootstrap import Interval, Replicates, intervals, paired, replicates, seed_mean
from chexreason.statistics.operating_point import N_FOLDS, refit, split_change
from chexreason.statistics.predictions import datasets, evaluated_labels
from chexreason.statistics.ranking import ranking_replicates
from chexreason.statistics.score_files import aligned
from chexreason.types import Prediction

Scored = Mapping[str, Sequence[tuple[Sequence[Prediction], pd.DataFrame]]]  # of each arm, each seed's answers, scores
_COLUMNS = {
    "macro_f1_own": "macro-F1, own",
    "macro_f1_refitted": "re-fitted",
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "average precision",
    "macro_brier": "Brier",
    "macro_ece": "ECE",
}
_CSV = ["arm", "dataset", "label", "measure", "value", "low", "high", "scores", "status"]
_READING = (
    "Scores order studies; answers also choose how many to name. `own` is the macro-F1 of the arm's answers, "
    "`re-fitted` that of its scores cut at thresholds fitted on at most {patients} other patients of the same set "
    f"({N_FOLDS} folds, fitted thresholds taken as they are). A change splits exactly into `ranking`, the change "
    "between the arms at re-fitted thresholds, and `operating point`, the rest. Intervals are 95 % over patients, from "
    "{resamples:,} resamples; a change whose interval holds 0 is not shown to be one. That of average precision is the "
    "basic one (reflected about the figure): a patient drawn twice ties with itself, which raises every resample. ECE "
    "rises still more and has no interval here; compare it between arms of one table only."
)


def write_ranking(
    arms: Scored,
    out: Path,
    *,
    sets: Sequence[str],
    label_set: LabelSet,
    kind: str,
    origins: Origins | None = None,
    not_run: Sequence[str] = (),
    fit_patients: int = 50,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> None:
    """Writes ``ranking.md``, ``.csv`` and ``.tex``: every arm on each of ``sets``, and how its changes split.

    ``kind`` of scores is frequency or log_odds. What an arm lacks is shown as missing, with the reason; ``not_run``
    names arms that should have been in it. Raises ValueError where arms stand on different policies, data or studies;
    nothing is written then.
    """
    named = by_seed({arm: dict(enumerate(rows for rows, _ in seeds)) for arm, seeds in arms.items()})
    ground = common_ground(named, sets, label_set, origins or {}, not_run)
    views = [
        see(arms, name, label_set, kind=kind, fit_patients=fit_patients, n_resamples=n_resamples, seed=seed)
        for name in sets
    ]
    parts = [f"# Ranking or operating point? (scores: {kind})"]
    parts += [_READING.format(patients=fit_patients, resamples=n_resamples), ground.sentence()]
    tables, lines = [], []
    for view in views:
        figures = {arm: _figures(sight) for arm, sight in view.arms.items()}
        table, steps = _arm_table(view.dataset, figures), step_table(view)
        parts += [shown.markdown() for shown in (table, steps) if shown.rows] + view.missing()
        noted = replace(table, notes=(ground.sentence(), *view.missing()))
        tables.append(noted.latex(f"ranking-{view.dataset}"))
        lines += [{**line, "dataset": view.dataset, "scores": kind} for line in _lines(figures)]
    write_text(out / "ranking.md", "\n\n".join(parts) + "\n")
    write_text(out / "ranking.csv", csv_text(ground.stamped(pd.DataFrame(lines, columns=_CSV))))
    write_text(out / "ranking.tex", "\n".join(tables))


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

    def missing(self) -> list[str]:
        """What is lacking, in a sentence; nothing where nothing is."""
        return [f"{MISSING} missing: {'; '.join(self.lacking)}."] * bool(self.lacking)


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
                cut = refit(scores, rows, labels, fit_patients=fit_patients, n_resamples=n_resamples, seed=seed)
                refitted.append(cut)
        if not own:
            found[arm] = None
            lacking.append(f"{arm}, no answers at {dataset}")
            continue
        found[arm] = Sight(seed_mean(rankings), seed_mean(own), seed_mean(refitted) if refitted else None)
        if not refitted:
            lacking.append(f"{arm} re-fitted, {own[0].n_patients} patients are fewer than the {N_FOLDS} folds")
    return View(dataset, found, tuple(lacking))


def _arm_table(dataset: str, figures: Mapping[str, Mapping[str, Interval]]) -> Table:
    """One row an arm."""
    rows: list[TableRow] = [(arm, *(interval_cell(own.get(name)) for name in _COLUMNS)) for arm, own in figures.items()]
    return Table(f"Sight and thresholds at {dataset}", ("arm", *_COLUMNS.values()), rows)


def step_table(view: View) -> Table:
    """One row a pair of arms (earlier before later)."""
    rows: list[TableRow] = [
        (f"{a} → {b}", *(interval_cell(figure, "+.3f") for figure in _step(view.arms[a], view.arms[b])))
        for a, b in combinations(view.arms, 2)
    ]
    header = ("step", "change", "ranking", "operating point", "change in AUROC")
    return Table(f"Changes in macro-F1 at {view.dataset}, split", header, rows)


def _lines(figures: Mapping[str, Mapping[str, Interval]]) -> Iterator[dict[str, Any]]:
    """The line of every figure, of every label and of their mean ("macro"); one line for an arm without any."""
    for arm, own in figures.items():
        if not own:
            yield {"arm": arm, "status": "missing"}
        for name, figure in own.items():
            measure, _, label = name.partition("/")
            line = {"label": label or "macro", "measure": measure.removeprefix("macro_"), **asdict(figure)}
            yield {"arm": arm, "status": "measured", **line}


def _figures(sight: Sight | None) -> dict[str, Interval]:
    """Every figure of an arm: ``<measure>/<label>`` and ``macro_<measure>``."""
    if sight is None:
        return {}
    figures = intervals(sight.ranking)
    for point, sample in (("own", sight.own), ("refitted", sight.refitted)):
        for name, figure in intervals(sample).items() if sample else ():
            if name == "macro_f1" or name.startswith("f1/"):
                measure, slash, label = name.partition("/")
                figures[f"{measure}_{point}{slash}{label}"] = figure
    return figures


def _step(a: Sight | None, b: Sight | None) -> tuple[Interval | None, ...]:
    """Change, its part by ranking and by operating point, and change in AUROC; None where an arm lacks them."""
    if a is None or b is None:
        return (None,) * 4
    moved = paired(a.ranking, b.ranking)["macro_auroc"]
    if a.refitted is None or b.refitted is None:
        return paired(a.own, b.own)["macro_f1"], None, None, moved
    return (*split_change((a.own, b.own), (a.refitted, b.refitted)), moved)
