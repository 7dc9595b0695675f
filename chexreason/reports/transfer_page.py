"""The transfer report as a page: what each step between arms does at one place and away, in a table and in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from chexreason.files import write_text
from chexreason.labels.schema import LabelSet
from chexreason.reports.figures import draw_pareto
from chexreason.reports.own_words import rates_table, vocabulary_sentence
from chexreason.reports.printed import printed_sentences
from chexreason.reports.provenance import Ground, Origins, common_ground
from chexreason.reports.result_table import Runs
from chexreason.reports.tables import COVERAGE, MISSING, STATISTIC_TITLES, Table, TableRow, csv_text, interval_cell
from chexreason.reports.verdict import compared_on, transfer_sentence
from chexreason.statistics.comparable import label_count
from chexreason.statistics.predictions import datasets
from chexreason.statistics.transfer import Change, TransferReport, transfer_report
from chexreason.statistics.vocabulary import mean_rates, vocabulary_shift

_COLUMNS = ["before", "after", "place", "dataset", "quantity", "value", "low", "high", "p", "p_holm"]


def write_transfer(
    arms: Runs,
    out: Path,
    *,
    home: str,
    away: Sequence[str],
    place: str = "home",
    label_set: LabelSet,
    origins: Origins | None = None,
    not_run: Sequence[str] = (),
    n_resamples: int = 10_000,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> list[str]:
    """Writes ``transfer.md``, ``.csv``, ``.tex`` and a Pareto plot for each other data set; returns the sentences.

    ``place`` says what the set ``home`` is: "home", or "benchmark" where the training hospital has no test set and the
    first of the external ones stands in. ``not_run`` names arms that should have been in it. Raises ValueError when an
    arm lacks one of the sets, and when arms saw other studies, policies or data; nothing is written then.
    """
    answers = {arm: list(seeds.values()) for arm, seeds in arms.items()}
    report = transfer_report(
        answers, label_set, home, away, n_resamples=n_resamples, n_permutations=n_permutations, seed=seed
    )
    first, sets = {arm: seeds[0] for arm, seeds in answers.items()}, [home, *away]
    ground = common_ground(first, sets, label_set, origins or {}, not_run)
    table = _table(report, home, ground)
    sentences = compared_on(report.labels, ground.facts)
    for step in report.steps:
        moved = {home: step.home.difference, step.away_set: step.away.difference}
        sentences.append(transfer_sentence(step.before, step.after, moved, report.below[step.after]))
    by_set = {arm: {name: [datasets(p)[name] for p in seeds] for name in sets} for arm, seeds in answers.items()}
    for (a, before), (b, after) in combinations(by_set.items(), 2):
        for name in sets:
            labels = report.labels or ground.facts[name]["labels"]
            if shift := vocabulary_shift(before[name], after[name], labels, n_resamples, seed):
                sentences.append(vocabulary_sentence(a, b, name, shift))
    judged = {name: facts["labels"] for name, facts in ground.facts.items()}
    rates = {arm: {name: mean_rates(own[name], judged[name]) for name in sets} for arm, own in by_set.items()}
    write_text(out / "transfer.md", _page(report, [table, rates_table(rates, sets)], sentences, place))
    lines = pd.DataFrame(_lines(report, home, place), columns=_COLUMNS)
    write_text(out / "transfer.csv", csv_text(ground.stamped(lines)))
    write_text(out / "transfer.tex", table.latex("transfer"))
    titles = {name: f"{name}, {label_count(facts)}" for name, facts in ground.facts.items()}
    for name in away:
        points = {arm: (scores[home], scores[name]) for arm, scores in report.scores.items()}
        stem, title = out / f"pareto_{name}", f"{place.title()} against away"
        draw_pareto(points, stem, home=titles[home], away=titles[name], title=title, place=place)
    return sentences


def _table(report: TransferReport, home: str, ground: Ground) -> Table:
    """One row a step and other data set: change at home and away with p-values, fraction retained away, gap."""
    rows: list[TableRow] = [
        (
            f"{step.before} → {step.after}",
            step.away_set,
            interval_cell(step.home.difference, "+.3f"),
            _p(step.home),
            interval_cell(step.away.difference, "+.3f"),
            _p(step.away),
            interval_cell(step.away.retained, ".2f"),
            interval_cell(step.gap, "+.3f"),
        )
        for step in report.steps
    ]
    header = ("step", "away", f"change at {home}", "p (Holm)", "change away", "p (Holm)", "retained away", "gap")
    on = f"{len(report.labels)} labels that all sets judge"
    return Table(f"Transfer: {STATISTIC_TITLES['macro_f1']} over the {on}", header, rows, notes=(ground.sentence(),))


def _page(report: TransferReport, tables: Sequence[Table], sentences: Sequence[str], place: str) -> str:
    """The report as Markdown: a sentence a step, the tables, how to read it, and what the paper's own figures say."""
    reading = (
        "Intervals (95 %) resample patients, the same draws for both arms; `retained away` is the score after the step "
        f"over the score before it, `gap` the change away minus the change at {place}. p: patients swapped between the "
        f"two arms at random; in brackets adjusted for all {report.n_tests} tests of this table (Holm); none where "
        "arms have different numbers of seeds. Intervals are not adjusted: with many steps, some exclude zero by "
        f"chance. {COVERAGE}"
    )
    printed = [f"- {sentence}" for sentence in printed_sentences()]
    paper = "\n".join(["What the paper's printed figures say, without intervals:", "", *printed])
    return "\n\n".join(["# Transfer", *sentences, *(t.markdown() for t in tables if t.rows), reading, paper]) + "\n"


def _lines(report: TransferReport, home: str, place: str) -> Iterator[dict[str, Any]]:
    """One step, data set and quantity a line."""
    for step in report.steps:
        line: dict[str, Any] = {"before": step.before, "after": step.after}
        for where, name, change in ((place, home, step.home), ("away", step.away_set, step.away)):
            line |= {"place": where, "dataset": name}
            yield {**line, "quantity": "change", **asdict(change.difference), "p": change.p, "p_holm": change.p_holm}
            yield {**line, "quantity": "retained", **asdict(change.retained)}
        yield {**line, "place": f"away - {place}", "quantity": "gap", **asdict(step.gap)}


def _p(change: Change) -> str:
    return MISSING if math.isnan(change.p) else f"{change.p:.4f} ({change.p_holm:.4f})"
