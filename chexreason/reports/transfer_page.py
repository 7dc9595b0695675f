"""The transfer report as a page: what each step between arms does at home and away, in a table and in words."""

from __future__ import annotations

import csv
import io
import math

from chexreason.reports.derived import sentences
from chexreason.reports.provenance import GROUND, Ground
from chexreason.reports.tables import TITLES, Cell, Table
from chexreason.reports.verdict import transfer_sentence
from chexreason.statistics.bootstrap import Interval
from chexreason.statistics.transfer import Change, TransferReport


def transfer_table(report: TransferReport, basis: str = "") -> Table:
    """One row a step and other data set: change at home and away with p-values, fraction retained away, gap."""
    rows = tuple(
        (
            Cell(f"{step.before} → {step.after}"),
            Cell(step.away_set),
            _signed(step.home.difference),
            Cell(_p(step.home)),
            _signed(step.away.difference),
            Cell(_p(step.away)),
            _plain(step.away.retained),
            _signed(step.gap),
        )
        for step in report.steps
    )
    header = (
        "step",
        "away",
        f"change at {report.home_set}",
        "p (Holm)",
        "change away",
        "p (Holm)",
        "retained away",
        "gap",
    )
    return Table(f"Transfer: {TITLES.get(report.statistic, report.statistic)}", header, rows, basis=basis)


def transfer_page(report: TransferReport, ground: Ground) -> str:
    """The report as Markdown: a sentence a step, the table, how to read it, and what the paper's own figures say."""
    said = [
        transfer_sentence(
            step.before,
            step.after,
            {f"at {report.home_set}": step.home.difference, f"at {step.away_set}": step.away.difference},
        )
        for step in report.steps
    ]
    reading = (
        "Intervals (95 %) resample patients, the same draws for both arms; `retained away` is the score after the step "
        "over the score before it, `gap` the change away minus the change at home. p: patients swapped between the two "
        f"arms at random; in brackets adjusted for all {report.n_tests} tests of this table (Holm); none where arms "
        "have different numbers of seeds. Intervals are not adjusted: with many steps, some exclude zero by chance."
    )
    paper = "\n".join(
        ["What the paper's printed figures say, without intervals:", "", *(f"- {s}" for s in sentences())]
    )
    return (
        "\n\n".join(["# Transfer", *said, transfer_table(report, ground.sentence()).markdown(), reading, paper]) + "\n"
    )


def transfer_csv(report: TransferReport, ground: Ground) -> str:
    """One step, data set and quantity a line."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("before", "after", "place", "dataset", "quantity", "value", "low", "high", "p", "p_holm", *GROUND))
    for step in report.steps:
        lines: list[tuple[str, ...]] = []
        for place, name, change in (("home", report.home_set, step.home), ("away", step.away_set, step.away)):
            p = (_number(change.p), _number(change.p_holm))
            lines.append((place, name, "change", *_bounds(change.difference), *p))
            lines.append((place, name, "retained", *_bounds(change.retained), "", ""))
        lines.append(("away - home", step.away_set, "gap", *_bounds(step.gap), "", ""))
        for line in lines:
            writer.writerow((step.before, step.after, *line, *ground.cells(line[1])))
    return file.getvalue()


def _signed(interval: Interval) -> Cell:
    bounds = "" if math.isnan(interval.low) else f"[{interval.low:+.3f}, {interval.high:+.3f}]"
    return Cell(f"{interval.value:+.3f}", bounds)


def _plain(interval: Interval) -> Cell:
    if math.isnan(interval.value):
        return Cell("undefined")
    return Cell(
        f"{interval.value:.2f}", "" if math.isnan(interval.low) else f"[{interval.low:.2f}, {interval.high:.2f}]"
    )


def _p(change: Change) -> str:
    return "—" if math.isnan(change.p) else f"{change.p:.4f} ({change.p_holm:.4f})"


def _bounds(interval: Interval) -> tuple[str, str, str]:
    return _number(interval.value), _number(interval.low), _number(interval.high)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
