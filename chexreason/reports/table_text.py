"""A table of results as CSV, Markdown and LaTeX (booktabs): our figure, its interval, and the paper's beside it."""

from __future__ import annotations

import csv
import io

from chexreason.reports.measured import Entry
from chexreason.reports.provenance import GROUND
from chexreason.reports.result_table import COLUMN_TITLES, ResultTable
from chexreason.reports.tables import MISSING, booktabs, row, tex

LIMITS = "A fail rate of 0 or 1 has Wilson's interval over patients; other figures that no resample changes have none."
COMPUTED = (
    "computed: follows from CheXpert's published test labels, whatever set ours is on; the paper does not print it."
)
HEADER = (
    "table",
    "row",
    "column",
    "dataset",
    "ours",
    "low",
    "high",
    "seeds",
    "seed_min",
    "seed_max",
    "paper",
    "computed",
    "status",
    *GROUND,
)


def to_csv(table: ResultTable) -> str:
    """One figure a line under ``HEADER``; what was not run has empty cells and the status ``missing``."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for name, entries in table.rows.items():
        for column, entry in entries.items():
            writer.writerow((table.name, name, column, table.dataset, *_csv_cells(table, name, column, entry)))
    return file.getvalue()


def to_markdown(table: ResultTable) -> str:
    """A GitHub Markdown table with its caption, what it stands on, and what is missing."""
    head = ["", *(cell for column in table.columns for cell in _headings(table, column))]
    lines = [_pipes(head), _pipes(["---"] * len(head))]
    lines += [_pipes(cells) for cells in _body(table)]
    return "\n\n".join([f"**{_caption(table)}**", *_notes(table), "\n".join(lines)]) + "\n"


def to_latex(table: ResultTable) -> str:
    """A booktabs ``table``, trivial rows below a rule."""
    kinds = [["ours", *([kind] if (kind := table.beside(column)) else [])] for column in table.columns]
    titles = " & ".join(
        rf"\multicolumn{{{len(names)}}}{{c}}{{{tex(_title(column))}}}"
        for names, column in zip(kinds, table.columns, strict=True)
    )
    second = [name for names in kinds for name in names]
    body = [row(cells) for cells in _body(table)]
    first_trivial = next((i for i, name in enumerate(table.rows) if name in table.trivial), len(body))
    body[first_trivial:first_trivial] = [r"\midrule"] if first_trivial < len(body) else []
    caption = " ".join([_caption(table) + ".", *_notes(table)])
    return booktabs(caption, table.name, len(second), [rf" & {titles} \\", row(["", *second])], body)


def _csv_cells(table: ResultTable, name: str, column: str, entry: Entry) -> list[str]:
    beside = ["" if figure is None else f"{figure:.3f}" for figure in (entry.paper, entry.computed)]
    if entry.ours is None or table.ground is None:
        return [*[""] * 6, *beside, "missing", *[""] * len(GROUND)]
    seeds = entry.seeds
    ends = [f"{min(seeds):.6f}", f"{max(seeds):.6f}"] if seeds else ["", ""]
    status = "trivial" if name in table.trivial or column in table.trivial else "measured"
    figures = [_number(x) for x in (entry.ours.value, entry.ours.low, entry.ours.high)]
    return [*figures, str(len(seeds) or 1), *ends, *beside, status, *table.ground.cells(table.dataset)]


def _body(table: ResultTable) -> list[list[str]]:
    rows = []
    for name, entries in table.rows.items():
        cells = [name]
        for column in table.columns:
            cells.append(_ours(entries[column]))
            if kind := table.beside(column):
                figure = getattr(entries[column], kind)
                cells.append("" if figure is None else f"{figure:.3f}")
        rows.append(cells)
    return rows


def _ours(entry: Entry) -> str:
    if entry.ours is None:
        return MISSING
    text = f"{entry.ours.value:.3f}"
    if entry.ours.low == entry.ours.low:  # not NaN
        text += f" [{entry.ours.low:.3f}, {entry.ours.high:.3f}]"
    return text + (f" ({min(entry.seeds):.3f} to {max(entry.seeds):.3f})" if entry.seeds else "")


def _headings(table: ResultTable, column: str) -> list[str]:
    return [_title(column), *([kind] if (kind := table.beside(column)) else [])]


def _title(column: str) -> str:
    return COLUMN_TITLES.get(column, column)


def _caption(table: ResultTable) -> str:
    return f"{table.name.replace('table', 'Table ')}: {table.title}"


def _notes(table: ResultTable) -> list[str]:
    first = f"Ours on {table.dataset}, paper as printed in arXiv 2512.23090; [95 % interval over patients]"
    if any(entry.seeds for entries in table.rows.values() for entry in entries.values()):
        first += ", mean over seeds and (their range)"
    said = [f"{first}.", LIMITS]
    if any(table.beside(column) == "computed" for column in table.columns):
        said.append(COMPUTED)
    if table.ground:
        said.append(table.ground.sentence())
    if table.not_run:
        said.append(f"{MISSING} not run: {', '.join(table.not_run)}.")
    return said


def _number(value: float) -> str:
    return f"{value:.6f}" if value == value else ""


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
