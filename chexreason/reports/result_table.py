"""A table of the paper with our figures in it: each run's mean over seeds, its interval, and the printed one beside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from chexreason.files import write_text
from chexreason.labels.schema import LabelSet
from chexreason.reports.printed import MACRO, TITLES, Printed, all_labels, printed
from chexreason.reports.provenance import Ground, Origins, by_seed, common_ground
from chexreason.reports.tables import COVERAGE, MISSING, Table, csv_text, interval_cell
from chexreason.statistics.bootstrap import Interval, intervals, replicates, seed_mean
from chexreason.statistics.comparable import UNRECORDED
from chexreason.statistics.predictions import VOCABULARY, counts, datasets, evaluated_labels
from chexreason.statistics.trivial import trivial_rows
from chexreason.types import Prediction

Runs = Mapping[str, Mapping[int, Sequence[Prediction]]]  # of each run, the predictions of each seed
_FAILED = "Fail rate"
_LIMITS = (
    "A fail rate of 0 or 1 has Wilson's interval over patients; other figures that no resample changes have none. "
)
_COMPUTED = (
    "computed: follows from CheXpert's published test labels, whatever set ours is on; the paper does not print it."
)
_HEADINGS = {
    "micro_precision": "micro P",
    "micro_recall": "micro R",
    "micro_f1": "micro F1",
    "macro_precision": "macro P",
    "macro_recall": "macro R",
    "macro_f1": "macro F1",
    "fail_rate": "fail rate",
    "unknown_rate": "unknown items",
    "no_label_rate": "no known label",
}
_OURS = ("ours", "low", "high", "seeds", "seed_min", "seed_max", "status")
_COLUMNS = ("table", "row", "column", "dataset", *_OURS[:-1], "paper", "computed", "status")


def write_table(
    name: str,
    runs: Runs,
    out: Path,
    *,
    dataset: str,
    label_set: LabelSet,
    prevalence: Mapping[str, float] | None = None,
    origins: Origins | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> list[str]:
    """Writes ``<out>/<name>.csv``, ``.md`` and ``.tex``; ``runs`` maps rows of the printed table to seeds' predictions.

    ``origins`` says by row how its answers came about, where that is known. A row absent from ``runs``, or without
    ``dataset``, is shown as missing, never as 0, and returned. Raises ValueError on a row the paper does not have, and
    where runs stand on different policies, data or studies; nothing is written then.
    """
    paper = printed(name)
    answers = {
        paper.run(run): {k: found for k, p in sorted(seeds.items()) if (found := datasets(p).get(dataset))}
        for run, seeds in runs.items()
    }
    answers = {run: seeds for run, seeds in answers.items() if seeds}
    known = {paper.run(run): origin for run, origin in (origins or {}).items()}
    named = by_seed(answers)
    ground = common_ground(named, [dataset], label_set, {run: o for run, o in known.items() if run in answers})
    labels = evaluated_labels(next(iter(named.values()), ()), label_set)
    measured = {run: _measured(seeds, labels, n_resamples, seed) for run, seeds in answers.items()}
    trivial = _trivial(next(iter(named.values())), labels, prevalence or {}) if named else {}
    frame = _frame(paper, measured, trivial, labels)
    not_run = [run for run in paper.runs if run not in answers]
    table = _table(paper, frame, list(trivial), dataset, ground, not_run)
    lines = frame.assign(table=name, dataset=dataset)[list(_COLUMNS)]
    lines = lines.assign(**{beside: frame[beside].map(_three, na_action="ignore") for beside in ("paper", "computed")})
    write_text(out / f"{name}.csv", csv_text(ground.stamped(lines)))
    write_text(out / f"{name}.md", table.markdown() + "\n")
    write_text(out / f"{name}.tex", table.latex(name))
    return not_run


def _measured(
    seeds: Mapping[int, Sequence[Prediction]], labels: Sequence[str], n_resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The figures of one run by statistic, under the names ``_OURS``."""
    samples = [replicates(rows, labels, n_resamples, seed) for rows in seeds.values()]
    found = {}
    for statistic, figure in intervals(seed_mean(samples)).items():
        each = [sample.value[statistic] for sample in samples] if len(samples) > 1 else [float("nan")]
        status = UNRECORDED if statistic in VOCABULARY and math.isnan(figure.value) else "measured"
        ours = (figure.value, figure.low, figure.high, str(len(samples)), min(each), max(each), status)
        found[statistic] = dict(zip(_OURS, ours, strict=True))
    return found


def _trivial(
    rows: Sequence[Prediction], labels: Sequence[str], prevalence: Mapping[str, float]
) -> dict[str, dict[str, dict[str, Any]]]:
    """The trivial answers as ``_measured``, without intervals: they are floors, not estimates of anything learned."""
    _, truth, mask = counts(rows, labels)
    known = dict.fromkeys(VOCABULARY, 0.0)  # they name labels only
    return {
        name: {s: {"ours": value, "seeds": "1", "status": "trivial"} for s, value in (scores | known).items()}
        for name, scores in trivial_rows(truth, mask, labels, prevalence).items()
    }


def _frame(
    paper: Printed, measured: Mapping[str, Any], trivial: Mapping[str, Any], labels: Sequence[str]
) -> pd.DataFrame:
    """One figure a line, by row and column of the table: ours as ``_OURS``, and the one of the paper or computed.

    Tables 1 to 4 have runs as rows and statistics as columns, Tables 5 and 6 labels and runs: the printed labels first.
    The rates of answers in other words follow where some run records them.
    """
    ours = {**measured, **trivial}
    recorded = any(found[rate]["status"] == "measured" for found in measured.values() for rate in VOCABULARY)
    said = VOCABULARY if recorded and (paper.by_label or "fail_rate" in paper.columns) else ()
    if paper.by_label:
        names = {label: f"f1/{label}" for label in paper.rows if label != MACRO}
        names |= {label: f"f1/{label}" for label in labels} | {MACRO: "macro_f1", _FAILED: "fail_rate"}
        names |= {_HEADINGS[rate].capitalize(): rate for rate in said}
        cells = product(names, (*paper.columns, *trivial))
        found = [(row, column, ours.get(column, {}).get(names[row], {})) for row, column in cells]
    else:
        cells = product((*paper.rows, *trivial), (*paper.columns, *said))
        found = [(row, column, ours.get(row, {}).get(column, {})) for row, column in cells]
    computed = all_labels() if paper.name == "table5" else {}  # only CheXpert's counts are published
    lines = [
        {
            "row": row,
            "column": column,
            "status": "missing",
            "paper": paper.rows.get(row, {}).get(column),
            "computed": computed.get(row) if column == "all_labels" else None,
        }
        | figures
        for row, column, figures in found
    ]
    return pd.DataFrame(lines, columns=["row", "column", *_OURS, "paper", "computed"]).astype(
        {name: float for name in (*_OURS[:3], "seed_min", "seed_max", "paper", "computed")}
    )


def _table(
    paper: Printed, frame: pd.DataFrame, trivial: Sequence[str], dataset: str, ground: Ground, not_run: Sequence[str]
) -> Table:
    """``frame`` to read: our figure with its interval, and beside it what the column has of the paper's."""
    header, spans, beside = [""], [], {}
    for column, entries in frame.groupby("column", sort=False):
        beside[column] = [kind for kind in ("paper", "computed") if entries[kind].notna().any()][:1]
        header += [_HEADINGS.get(str(column), str(column)), *beside[column]]
        spans.append(1 + len(beside[column]))
    rows = [
        (str(row), *(cell for line in entries.to_dict("records") for cell in _cells(line, beside[line["column"]])))
        for row, entries in frame.groupby("row", sort=False)
    ]
    first = f"Ours on {dataset}, paper as printed in arXiv 2512.23090; [95 % interval over patients]"
    first += ", mean over seeds and (their range)" if frame["seed_min"].notna().any() else ""
    notes = [f"{first}.", _LIMITS + COVERAGE, *[_COMPUTED] * (["computed"] in beside.values())]
    notes += [ground.sentence()] * bool(ground.facts)
    notes += [f"{MISSING} not run: {', '.join(not_run)}."] * bool(not_run)
    caption = f"{paper.name.replace('table', 'Table ')}: {TITLES[paper.name]}"
    n_trivial = 0 if paper.by_label else len(trivial)
    return Table(caption, tuple(header), rows, n_trivial, tuple(notes), tuple(spans))


def _cells(line: Mapping[Any, Any], beside: Sequence[str]) -> Iterator[str]:
    if line["status"] == "missing":
        yield MISSING
    elif line["status"] == UNRECORDED:
        yield UNRECORDED
    else:
        seeds = f" ({line['seed_min']:.3f} to {line['seed_max']:.3f})" if line["seed_min"] == line["seed_min"] else ""
        yield f"{interval_cell(Interval(line['ours'], line['low'], line['high']))}{seeds}"
    for kind in beside:
        yield _three(line[kind]) if line[kind] == line[kind] else ""


def _three(value: float) -> str:
    return f"{value:.3f}"
