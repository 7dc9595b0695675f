"""The transfer report as a page: what each step between arms does at one place and away, in a table and in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from chexreason.files import write_text
from chexreason.labels.schema import LabelSet
from chexreason.reports.figures import draw_pareto
from chexreason.reports.printed import printed_sentences
from chexreason.reports.provenance import Ground, Origins, common_ground
from chexreason.reports.result_table import Runs
from chexreason.reports.tables import MISSING, STATISTIC_TITLES, Table, TableRow, csv_text, interval_cell
from chexreason.reports.verdict import transfer_sentence
from chexreason.statistics.transfer import Change, TransferReport, transfer_report


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
    first = {arm: seeds[0] for arm, seeds in answers.items()}
    ground = common_ground(first, [home, *away], label_set, origins or {}, not_run)
    table = _table(report, home, ground)
    sentences = [
        transfer_sentence(
            step.before, step.after, {f"at {home}": step.home.difference, f"at {step.away_set}": step.away.difference}
        )
        for step in report.steps
    ]
    write_text(out / "transfer.md", _page(report, table, sentences, place))
    write_text(out / "transfer.csv", csv_text(ground.stamped(pd.DataFrame(_lines(report, home, place)))))
    write_text(out / "transfer.tex", table.latex("transfer"))
    for name in away:
        points = {arm: (scores[home], scores[name]) for arm, scores in report.scores.items()}
        title = f"{place.title()} against away"
        draw_pareto(points, out / f"pareto_{name}", home=home, away=name, title=title, place=place)
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
    return Table(f"Transfer: {STATISTIC_TITLES['macro_f1']}", header, rows, notes=(ground.sentence(),))


def _page(report: TransferReport, table: Table, sentences: Sequence[str], place: str) -> str:
    """The report as Markdown: a sentence a step, the table, how to read it, and what the paper's own figures say."""
    reading = (
        "Intervals (95 %) resample patients, the same draws for both arms; `retained away` is the score after the step "
        f"over the score before it, `gap` the change away minus the change at {place}. p: patients swapped between the "
        f"two arms at random; in brackets adjusted for all {report.n_tests} tests of this table (Holm); none where "
        "arms have different numbers of seeds. Intervals are not adjusted: with many steps, some exclude zero by "
        "chance."
    )
    printed = [f"- {sentence}" for sentence in printed_sentences()]
    paper = "\n".join(["What the paper's printed figures say, without intervals:", "", *printed])
    return "\n\n".join(["# Transfer", *sentences, table.markdown(), reading, paper]) + "\n"


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
