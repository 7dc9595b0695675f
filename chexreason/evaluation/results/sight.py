"""Ranking or operating point, as a page: how arms order studies, what re-fitted thresholds give, how changes split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from chexreason.evaluation.bootstrap import Interval, Replicates, intervals, paired, seed_mean
from chexreason.evaluation.label_scores import aligned
from chexreason.evaluation.operating_point import Refit, refit, split_change
from chexreason.evaluation.predictions import datasets, evaluated_labels
from chexreason.evaluation.ranking import ranking_replicates
from chexreason.evaluation.tables import Cell, Table
from chexreason.labels.schema import LabelSet
from chexreason.types import Prediction

Scored = Mapping[str, Sequence[tuple[Sequence[Prediction], pd.DataFrame]]]  # of each arm, each seed's answers, scores
MACRO = ("macro_auroc", "macro_average_precision", "macro_brier", "macro_ece")
READING = (
    "Scores order studies; answers also choose how many to name. `own` is the macro-F1 of the arm's answers, "
    "`re-fitted` that of its scores cut at thresholds fitted on at most {patients} other patients of the same set "
    "(five folds, fitted thresholds taken as they are). A change splits exactly into `ranking`, the change between the "
    "arms at re-fitted thresholds, and `operating point`, the rest. Intervals are 95 % over patients; a change whose "
    "interval holds 0 is not shown to be one."
)


@dataclass(frozen=True)
class Sight:
    """One arm on one data set: ranking and calibration of its scores, and its two operating points."""

    ranking: Replicates
    points: Refit


def see(
    arms: Scored,
    dataset: str,
    label_set: LabelSet,
    *,
    kind: str,
    fit_patients: int = 50,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, Sight]:
    """Every arm on ``dataset``, the mean over its seeds; ``kind`` of scores is frequency or log_odds."""
    found = {}
    for arm, seeds in arms.items():
        rankings, own, refitted = [], [], []
        for predictions, frame in seeds:
            rows = datasets(predictions)[dataset]
            labels = evaluated_labels(rows, label_set)
            scores = aligned(frame, rows, labels, kind)
            rankings.append(ranking_replicates(scores, rows, labels, kind=kind, n_resamples=n_resamples, seed=seed))
            points = refit(scores, rows, labels, fit_patients=fit_patients, n_resamples=n_resamples, seed=seed)
            own.append(points.own)
            refitted.append(points.refitted)
        found[arm] = Sight(seed_mean(rankings), Refit(seed_mean(own), seed_mean(refitted)))
    return found


def sight_tables(found: Mapping[str, Sight], dataset: str) -> tuple[Table, Table]:
    """One row an arm, and one row a pair of arms (earlier before later)."""
    rows = []
    for arm, sight in found.items():
        figures = intervals(sight.ranking)
        points = [intervals(point)["macro_f1"] for point in (sight.points.own, sight.points.refitted)]
        rows.append((Cell(arm), *(_cell(x) for x in (*points, *(figures[name] for name in MACRO)))))
    header = ("arm", "macro-F1, own", "re-fitted", "macro AUROC", "average precision", "Brier", "ECE")
    steps = []
    for a, b in combinations(found, 2):
        split = split_change(found[a].points, found[b].points)
        moved = paired(found[a].ranking, found[b].ranking)["macro_auroc"]
        steps.append(
            (Cell(f"{a} → {b}"), *(_cell(x, "+") for x in (split.total, split.ranking, split.operating_point, moved)))
        )
    return (
        Table(f"Sight and thresholds at {dataset}", header, tuple(rows)),
        Table(
            f"Changes in macro-F1 at {dataset}, split",
            ("step", "change", "ranking", "operating point", "change in AUROC"),
            tuple(steps),
        ),
    )


def sight_page(tables: Sequence[Table], kind: str, fit_patients: int) -> str:
    """The tables of all data sets as Markdown, and how to read them."""
    title = f"# Ranking or operating point? (scores: {kind})"
    reading = READING.format(patients=fit_patients)
    return "\n\n".join([title, reading, *(table.markdown() for table in tables if table.rows)]) + "\n"


def _cell(figure: Interval, sign: str = "") -> Cell:
    if figure.value != figure.value:  # NaN
        return Cell("undefined")
    bounds = "" if figure.low != figure.low else f"[{figure.low:{sign}.3f}, {figure.high:{sign}.3f}]"
    return Cell(f"{figure.value:{sign}.3f}", bounds)
