"""Ranking or operating point, as a page: how arms order studies, and how a change between two of them splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd

from chexreason.files import write_text
from chexreason.labels.schema import LabelSet
from chexreason.reports.provenance import Origins, by_seed, common_ground
from chexreason.reports.tables import MISSING, Table, TableRow, csv_text, interval_cell
from chexreason.statistics.bootstrap import Interval, Replicates, intervals, paired, replicates, seed_mean
from chexreason.statistics.predictions import datasets, evaluated_labels
from chexreason.statistics.ranking import ranking_replicates
from chexreason.statistics.rate_matched import CHANGE_PARTS, ScoredAnswers, split_change
from chexreason.statistics.score_files import aligned
from chexreason.types import Prediction

Scored = Mapping[str, Sequence[tuple[Sequence[Prediction], pd.DataFrame]]]  # of each arm, each seed's answers, scores
_COLUMNS = {
    "macro_f1_own": "macro-F1, own",
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "average precision",
    "macro_brier": "Brier",
    "macro_ece": "ECE",
}
_CSV = ["arm", "dataset", "label", "measure", "value", "low", "high", "scores", "status"]
_READING = (
    "Scores order studies; answers also choose how many to name. `own` is the macro-F1 of the arm's answers. A change "
    "splits exactly into three parts. `operating point` is what naming each label as often as the other arm does "
    "changes, `ranking` what the other arm's order of the studies changes at equal numbers, and `decoding` what own "
    "answers differ from the arm's scores cut at its own rates. No true label sets a cut; both orders are averaged, "
    "and rates are counted anew in each resample. Intervals are 95 % over patients, from {resamples:,} resamples; a "
    "change whose interval holds 0 is not shown to be one. That of average precision is the basic one (reflected about "
    "the figure): a patient drawn twice ties with itself, which raises every resample. ECE rises still more and has no "
    "interval here; compare it between arms of one table only."
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
    views = [see(arms, name, label_set, kind=kind, n_resamples=n_resamples, seed=seed) for name in sets]
    parts = [f"# Ranking or operating point? (scores: {kind})"]
    parts += [_READING.format(resamples=n_resamples), ground.sentence()]
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
    """One arm on one data set: ranking and calibration of its scores, and F1 of its ``own`` answers."""

    ranking: Replicates
    own: Replicates


@dataclass(frozen=True)
class View:
    """All arms on one data set, in order, and the split of the change between each two of them, earlier before later.

    ``lacking`` says of the arms that lack something what and why.
    """

    dataset: str
    arms: Mapping[str, Sight | None]
    splits: Mapping[tuple[str, str], Replicates]
    lacking: tuple[str, ...]

    def missing(self) -> list[str]:
        """What is lacking, in a sentence; nothing where nothing is."""
        return [f"{MISSING} missing: {'; '.join(self.lacking)}."] * bool(self.lacking)


def see(arms: Scored, dataset: str, label_set: LabelSet, *, kind: str, n_resamples: int = 2_000, seed: int = 0) -> View:
    """Every arm on ``dataset``, the mean over its seeds; ``kind`` of scores is frequency or log_odds."""
    found: dict[str, Sight | None] = {}
    scored: dict[str, list[ScoredAnswers]] = {arm: [] for arm in arms}
    labels: tuple[str, ...] = ()
    for arm, seeds in arms.items():
        for predictions, frame in seeds:
            if rows := datasets(predictions).get(dataset, []):
                labels = evaluated_labels(rows, label_set)
                scored[arm].append((aligned(frame, rows, labels, kind), rows))
        rankings = [
            ranking_replicates(*both, labels, kind=kind, n_resamples=n_resamples, seed=seed) for both in scored[arm]
        ]
        own = [replicates(rows, labels, n_resamples, seed) for _, rows in scored[arm]]
        found[arm] = Sight(seed_mean(rankings), seed_mean(own)) if own else None
    splits = {
        (a, b): seed_mean([split_change(x, y, labels, n_resamples, seed) for x, y in _pairs(scored[a], scored[b])])
        for a, b in combinations(arms, 2)
        if scored[a] and scored[b]
    }
    return View(dataset, found, splits, tuple(f"{arm}, no answers at {dataset}" for arm in arms if not scored[arm]))


def _pairs(a: Sequence[ScoredAnswers], b: Sequence[ScoredAnswers]) -> Iterator[tuple[ScoredAnswers, ScoredAnswers]]:
    """Seed by seed where both arms have as many; else each with each: the mean change is that of the means."""
    return iter(zip(a, b, strict=True)) if len(a) == len(b) else product(a, b)


def _arm_table(dataset: str, figures: Mapping[str, Mapping[str, Interval]]) -> Table:
    """One row an arm."""
    rows: list[TableRow] = [(arm, *(interval_cell(own.get(name)) for name in _COLUMNS)) for arm, own in figures.items()]
    return Table(f"Sight and thresholds at {dataset}", ("arm", *_COLUMNS.values()), rows)


def step_table(view: View) -> Table:
    """One row a pair of arms (earlier before later)."""
    rows: list[TableRow] = []
    for a, b in combinations(view.arms, 2):
        figures: list[Interval | None] = [None] * (len(CHANGE_PARTS) + 1)
        first, second = view.arms[a], view.arms[b]
        if first and second:
            split = view.splits[a, b]
            figures = [split.percentiles(part) for part in CHANGE_PARTS]
            figures.append(paired(first.ranking, second.ranking)["macro_auroc"])
        rows.append((f"{a} → {b}", *(interval_cell(figure, "+.3f") for figure in figures)))
    header = ("step", "change", "operating point", "ranking", "decoding", "change in AUROC")
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
    for name, figure in intervals(sight.own).items():
        if name == "macro_f1" or name.startswith("f1/"):
            measure, slash, label = name.partition("/")
            figures[f"{measure}_own{slash}{label}"] = figure
    return figures
