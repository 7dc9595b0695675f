"""Tables of a study's figures: for the page, for Markdown, for a spreadsheet and for the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from chexreason.statistics.bootstrap import STATISTICS
from chexreason.statistics.comparable import basis

BELOW = "▾"  # marks a label's F1 below that of answering all labels
TITLES = {
    "macro_f1": "macro-F1",
    "macro_f1_supported": "macro-F1, supported labels",
    "micro_f1": "micro-F1",
    "jaccard": "Jaccard overlap of a study",
    "fail_rate": "fail rate",
}


@dataclass(frozen=True)
class Cell:
    """A figure, its interval, a mark such as "below all_labels", and its length as a bar (0..1) where it has one."""

    text: str
    interval: str = ""
    mark: str = ""
    bar: float | None = None

    def __str__(self) -> str:
        mark = self.mark if self.mark in ("", BELOW) else f"({self.mark})"
        return " ".join(part for part in (self.text, self.interval, mark) if part)


@dataclass(frozen=True)
class Table:
    """A caption, a header and rows of equally many cells; ``n_trivial`` of the rows, the last ones, are trivial.

    ``basis`` says what the figures stand on: the label policy and the number of labels of each data set shown.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    n_trivial: int = 0
    basis: str = ""

    def markdown(self) -> str:
        """A GitHub Markdown table under its caption."""
        caption = [f"**{self.caption}**", "", *([self.basis, ""] if self.basis else [])]
        lines = [*caption, _pipes(self.header), _pipes(["---"] * len(self.header))]
        return "\n".join([*lines, *(_pipes([str(cell) for cell in row]) for row in self.rows)])


def score_table(figures: Mapping[str, Any], statistic: str, names: Mapping[str, str]) -> Table:
    """Arms and trivial rows by data set, one statistic with its interval; F1 below a trivial row is marked as such."""
    sets = data_sets(figures)
    rows = [
        (Cell(names.get(arm, arm)), *(_score_cell(figures, arm, name, statistic) for name in sets))
        for arm in figures["arms"]
    ]
    trivial = [
        (Cell(row), *(_figure(by_set.get(name, {}).get(statistic)) for name in sets))
        for row, by_set in figures["trivial"].items()
        if statistic != "fail_rate"  # a constant answer is always readable
    ]
    header = ("", *(names.get(name, name) for name in sets))
    return Table(TITLES[statistic], header, (*rows, *trivial), len(trivial), basis(figures["sets"], names))


def change_table(figures: Mapping[str, Any], statistic: str, names: Mapping[str, str]) -> Table:
    """Paired differences between arms by data set, with intervals and, for macro-F1, the relative change."""
    sets = data_sets(figures)
    rows = []
    for key, by_set in figures["paired"].items():
        step = " → ".join(names.get(arm, arm) for arm in key.split("__"))
        rows.append((Cell(step), *(_change_cell(by_set.get(name, {}).get(statistic)) for name in sets)))
    header = ("", *(names.get(name, name) for name in sets))
    caption = f"Paired difference in {TITLES[statistic]}"
    return Table(caption, header, tuple(rows), basis=basis(figures["sets"], names))


def label_table(figures: Mapping[str, Any], dataset: str, names: Mapping[str, str]) -> Table:
    """F1 of every evaluated label of one data set, by arm, beside ``all_labels``; labels nobody judges are absent."""
    arms = [arm for arm, by_set in figures["arms"].items() if dataset in by_set]
    labels = figures["arms"][arms[0]][dataset]["per_label"]
    rows = []
    for label, facts in labels.items():
        floor = figures["trivial"]["all_labels"][dataset]["per_label"][label]
        scores = [figures["arms"][arm][dataset]["per_label"][label]["f1"] for arm in arms]
        cells = [_interval_cell(s, BELOW if _below(s["value"], floor) else "", bar=s["value"]) for s in scores]
        share = f"{facts['support']} / {facts['judged']}"
        rows.append((Cell(label), Cell(share), *cells, Cell(f"{floor:.3f}", bar=floor)))
    header = ("Label", "positives / judged", *(names.get(arm, arm) for arm in arms), "all_labels")
    caption = f"F1 by label, {names.get(dataset, dataset)} ({BELOW} below all_labels)"
    return Table(caption, header, tuple(rows), basis=basis({dataset: figures["sets"][dataset]}, names))


def stage_table(stages: list[dict[str, Any]]) -> Table:
    """Time and peak memory of each stage."""
    rows = [
        (Cell(str(s["name"])), Cell(_duration(s.get("seconds"))), Cell(_size(s.get("peak_rss_bytes")))) for s in stages
    ]
    return Table("Time and memory", ("Stage", "time", "peak memory"), tuple(rows))


def long_csv(figures: Mapping[str, Any]) -> str:
    """All scores as CSV, one figure a line: kind, row, dataset, statistic, value, low, high, policy, data_sha256."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("kind", "row", "dataset", "statistic", "value", "low", "high", "policy", "data_sha256"))
    for row in _long_rows(figures):
        facts = figures["sets"][row[2]]
        writer.writerow((*row, facts["policy"], facts["data_sha256"]))
    return file.getvalue()


def print_summary(figures: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the verdict, macro-F1 and paired differences of a report to the terminal."""
    console, names = console or Console(), figures.get("names", {})
    for table in (score_table(figures, "macro_f1", names), change_table(figures, "macro_f1", names)):
        if not table.rows:
            continue
        view = RichTable(title=table.caption, caption=Text(table.basis))
        for i, title in enumerate(table.header):
            view.add_column(title, justify="right" if i else "left")
        for row in table.rows:
            view.add_row(*(Text(str(cell)) for cell in row))  # Text: an interval's bracket is no markup
        console.print(view)
    console.print(" ".join(figures.get("verdict", [])), markup=False, highlight=False)


def data_sets(figures: Mapping[str, Any]) -> list[str]:
    """Data sets of a study in order of first appearance."""
    return list(dict.fromkeys(name for by_set in figures["arms"].values() for name in by_set))


def _score_cell(figures: Mapping[str, Any], arm: str, dataset: str, statistic: str) -> Cell:
    score = figures["arms"][arm].get(dataset, {}).get(statistic)
    if score is None:
        return Cell("n/a")
    trivial = {row: by_set[dataset][statistic] for row, by_set in figures["trivial"].items() if dataset in by_set}
    above = [row for row, value in trivial.items() if _below(score["value"], value)] if statistic != "fail_rate" else []
    return _interval_cell(score, f"below {', '.join(above)}" if above else "")


def _below(value: float | None, floor: float | None) -> bool:
    return value is not None and floor is not None and value < floor


def _interval_cell(score: Mapping[str, float | None], mark: str = "", bar: float | None = None) -> Cell:
    low, high = score["low"], score["high"]
    bounds = "[undefined]" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
    return Cell(_figure(score["value"]).text, bounds, mark, bar)


def _change_cell(change: Mapping[str, float | None] | None) -> Cell:
    if change is None or change["value"] is None:
        return Cell("n/a")
    low, high, relative = change["low"], change["high"], change.get("relative")
    bounds = "[undefined]" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"
    return Cell(f"{change['value']:+.3f}", bounds, "" if relative is None else f"{relative:+.0%}")


def _figure(value: float | None) -> Cell:
    return Cell("n/a" if value is None else f"{value:.3f}")


def _long_rows(figures: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for kind in ("arms", "paired"):
        for row, by_set in figures[kind].items():
            for dataset, scores in by_set.items():
                for statistic in STATISTICS:
                    score = scores[statistic]
                    yield kind, row, dataset, statistic, score["value"], score["low"], score["high"]
                for label, facts in scores.get("per_label", {}).items():
                    f1 = facts["f1"]
                    yield kind, row, dataset, f"f1/{label}", f1["value"], f1["low"], f1["high"]
    for row, by_set in figures["trivial"].items():
        for dataset, scores in by_set.items():
            yield from (("trivial", row, dataset, statistic, scores[statistic], None, None) for statistic in STATISTICS)


def _pipes(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "n/a"
    minutes, rest = divmod(seconds, 60)
    return f"{rest:.1f} s" if minutes < 1 else f"{int(minutes)} min {int(rest):02d} s"


def _size(n_bytes: float | None) -> str:
    return "n/a" if n_bytes is None else f"{n_bytes / 2**30:.2f} GiB"


MISSING = "—"
_ESCAPED = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
_ESCAPED |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
_ESCAPED |= {MISSING: "---", "→": r"$\rightarrow$"}


def tex(text: str) -> str:
    """``text`` as LaTeX prints it."""
    return re.sub("|".join(re.escape(key) for key in _ESCAPED), lambda found: _ESCAPED[found[0]], text)


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return " & ".join(tex(cell) for cell in cells) + r" \\"


def booktabs(caption: str, label: str, n_figures: int, head: Sequence[str], body: Sequence[str]) -> str:
    """A ``table`` of finished lines; needs the packages booktabs and graphicx (it is shrunk to the width of the text).

    ``n_figures`` is the number of columns after the first.
    """
    label = re.sub(r"[^\w:]+", "-", label)
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{tex(caption)}}}", rf"\label{{tab:{label}}}",
        r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{l{'r' * n_figures}}}",
        r"\toprule", *head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}}", r"\end{table}", "",
    ])  # fmt: skip


def table_latex(table: Table, label: str, note: str = "") -> str:
    """A table of cells, its caption followed by what it stands on and ``note``."""
    caption = ". ".join(part.rstrip(".") for part in (table.caption, table.basis, note) if part) + "."
    body = [row([str(cell) for cell in cells]) for cells in table.rows]
    return booktabs(caption, label, len(table.header) - 1, [row(table.header)], body)
