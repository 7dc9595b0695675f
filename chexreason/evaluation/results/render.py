"""A table of results as CSV, Markdown and LaTeX (booktabs): our figure, its interval, and the paper's beside it."""

from __future__ import annotations

import csv
import io
import re

from chexreason.evaluation.results.measured import Entry
from chexreason.evaluation.results.table import COLUMN_TITLES, ResultTable

MISSING = "—"
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
    "status",
)
_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", MISSING: "---"}


def to_csv(table: ResultTable) -> str:
    """One figure a line under ``HEADER``; what was not run has empty cells and the status ``missing``."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for name, row in table.rows.items():
        for column, entry in row.items():
            writer.writerow((table.name, name, column, table.dataset, *_csv_cells(table, name, column, entry)))
    return file.getvalue()


def to_markdown(table: ResultTable) -> str:
    """A GitHub Markdown table with its caption, what it stands on, and what is missing."""
    head = ["", *(cell for column in table.columns for cell in _headings(table, column))]
    lines = [_pipes(head), _pipes(["---"] * len(head))]
    lines += [_pipes(cells) for cells in _body(table)]
    return "\n\n".join([f"**{_caption(table)}**", *_notes(table), "\n".join(lines)]) + "\n"


def to_latex(table: ResultTable) -> str:
    """A booktabs ``table``; needs the packages booktabs and graphicx (it is shrunk to the width of the text)."""
    widths = [len(_headings(table, column)) for column in table.columns]
    titles = " & ".join(
        rf"\multicolumn{{{n}}}{{c}}{{{_tex(_title(column))}}}" for n, column in zip(widths, table.columns, strict=True)
    )
    second = " & ".join("ours & paper" if n == 2 else "ours" for n in widths)
    body = [" & ".join(_tex(cell) for cell in cells) + r" \\" for cells in _body(table)]
    first_trivial = next((i for i, name in enumerate(table.rows) if name in table.trivial), len(body))
    body[first_trivial:first_trivial] = [r"\midrule"] if first_trivial < len(body) else []
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{_tex(' '.join([_caption(table) + '.', *_notes(table)]))}}}",
        rf"\label{{tab:{table.name}}}", r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{l{'r' * sum(widths)}}}",
        r"\toprule", f" & {titles} \\\\", f" & {second} \\\\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}}",
        r"\end{table}", "",
    ])  # fmt: skip


def _csv_cells(table: ResultTable, row: str, column: str, entry: Entry) -> list[str]:
    paper = "" if entry.paper is None else f"{entry.paper:.3f}"
    if entry.ours is None:
        return ["", "", "", "", "", "", paper, "missing"]
    seeds = entry.seeds
    ends = [f"{min(seeds):.6f}", f"{max(seeds):.6f}"] if seeds else ["", ""]
    status = "trivial" if row in table.trivial or column in table.trivial else "measured"
    figures = [_number(x) for x in (entry.ours.value, entry.ours.low, entry.ours.high)]
    return [*figures, str(len(seeds) or 1), *ends, paper, status]


def _body(table: ResultTable) -> list[list[str]]:
    rows = []
    for name, row in table.rows.items():
        cells = [name]
        for column in table.columns:
            cells.append(_ours(row[column]))
            if table.has_paper(column):
                paper = row[column].paper
                cells.append("" if paper is None else f"{paper:.3f}")
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
    return [_title(column), *(["paper"] if table.has_paper(column) else [])]


def _title(column: str) -> str:
    return COLUMN_TITLES.get(column, column)


def _caption(table: ResultTable) -> str:
    return f"{table.name.replace('table', 'Table ')}: {table.title}"


def _notes(table: ResultTable) -> list[str]:
    notes = [f"Ours on {table.dataset}, paper as printed in arXiv 2512.23090; [95 % interval over patients]"]
    if any(entry.seeds for row in table.rows.values() for entry in row.values()):
        notes[0] += ", mean over seeds and (their range)"
    notes[0] += "."
    if table.basis:
        notes.append(f"{table.basis}.")
    if table.not_run:
        notes.append(f"{MISSING} not run: {', '.join(table.not_run)}.")
    return notes


def _number(value: float) -> str:
    return f"{value:.6f}" if value == value else ""


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _tex(text: str) -> str:
    return re.sub("|".join(re.escape(key) for key in _LATEX), lambda found: _LATEX[found[0]], text)
