"""A table of the paper with our figures in it: which runs fill it, which are missing, what is trivial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from chexreason.reports.derived import all_labels
from chexreason.reports.measured import FAILED, Entry, Measured, by_label
from chexreason.reports.printed import MACRO, TITLES, Printed
from chexreason.reports.provenance import Ground, Origins

COLUMN_TITLES = {
    "micro_precision": "micro P",
    "micro_recall": "micro R",
    "micro_f1": "micro F1",
    "macro_precision": "macro P",
    "macro_recall": "macro R",
    "macro_f1": "macro F1",
    "fail_rate": "fail rate",
}


@dataclass(frozen=True)
class ResultTable:
    """``rows`` of entries by column; ``trivial`` names the rows (Tables 1 to 4) or columns (5 and 6) that are trivial.

    ``dataset`` is where our figures were measured, ``ground`` what they stand on (None without a run); ``not_run`` are
    the runs that are missing: their cells are shown as missing, never as 0.
    """

    name: str
    title: str
    dataset: str
    ground: Ground | None
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Entry]]
    trivial: tuple[str, ...]
    not_run: tuple[str, ...]

    def beside(self, column: str) -> str:
        """What stands beside our figures of a column: paper, computed or nothing ("")."""
        entries = [row[column] for row in self.rows.values()]
        return next((kind for kind in ("paper", "computed") if any(getattr(e, kind) is not None for e in entries)), "")


def result_table(paper: Printed, measured: Measured, dataset: str, origins: Origins) -> ResultTable:
    """Our figures beside the printed ones; ``origins`` are those of the runs measured."""
    origins = {run: origin for run, origin in origins.items() if run in measured.runs}
    build = _label_rows if paper.by_label else _variant_rows
    columns, rows = build(paper, measured)
    return ResultTable(
        name=paper.name,
        title=TITLES[paper.name],
        dataset=dataset,
        ground=Ground({dataset: measured.facts}, {dataset: measured.n_studies}, origins) if measured.runs else None,
        columns=columns,
        rows=rows,
        trivial=tuple(measured.trivial),
        not_run=tuple(run for run in paper.runs if run not in measured.runs),
    )


def _variant_rows(paper: Printed, measured: Measured) -> tuple[tuple[str, ...], dict[str, dict[str, Entry]]]:
    rows = {}
    for run, figures in paper.rows.items():
        ours = measured.runs.get(run, {})
        rows[run] = {s: replace(ours.get(s, Entry()), paper=figures[s]) for s in paper.columns}
    for name, entries in measured.trivial.items():
        rows[name] = {s: entries[s] for s in paper.columns}
    return paper.columns, rows


def _label_rows(paper: Printed, measured: Measured) -> tuple[tuple[str, ...], dict[str, dict[str, Entry]]]:
    """Labels as rows, the printed ones first; one that is not judged here, or not in the paper, stays empty there."""
    ours = {name: by_label(e, measured.labels) for name, e in {**measured.runs, **measured.trivial}.items()}
    computed = {"all_labels": all_labels()} if paper.name == "table5" else {}  # only CheXpert's counts are published
    labels = [label for label in paper.rows if label != MACRO]
    labels += [label for label in measured.labels if label not in paper.rows]
    columns = (*paper.columns, *measured.trivial)
    rows = {
        label: {
            column: replace(
                ours.get(column, {}).get(label, Entry()),
                paper=paper.rows.get(label, {}).get(column),
                computed=computed.get(column, {}).get(label),
            )
            for column in columns
        }
        for label in (*labels, MACRO, FAILED)
    }
    return columns, rows
