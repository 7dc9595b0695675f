"""The one table type: rows of cells as Markdown, LaTeX (booktabs) and terminal text, and tidy frames as CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from chexreason.errors import printable
from chexreason.statistics.bootstrap import Interval

MISSING = "—"
BELOW = "▾"  # marks a label's F1 below that of answering all labels
STATISTIC_TITLES = {
    "macro_f1": "macro-F1",
    "macro_f1_supported": "macro-F1, supported labels",
    "micro_f1": "micro-F1",
    "jaccard": "Jaccard overlap of a study",
    "fail_rate": "fail rate",
    "unknown_rate": "answers with an item that is no label",
    "no_label_rate": "answers with such items alone",
}
COVERAGE = (  # of benchmarks/coverage.py
    "In 2,000 simulated test sets a case (50 to 200 patients, 14 labels of prevalence .02 to .5) the intervals of "
    "macro-F1 held the truth in 94 to 100 %, of micro-F1 in 93 to 95 %, of a change in macro-F1 in 88 to 95 %, less "
    "with fewer patients. Where all labels are rare those of changes hold it less often: in 70 % with nine labels of "
    "prevalence .02 and 50 patients."
)
_ESCAPED = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
_ESCAPED |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
_ESCAPED |= {MISSING: "---", "→": r"$\rightarrow$"}


@dataclass(frozen=True)
class ScoreCell:
    """A figure, its interval, a mark such as "below all_labels", and its length as a bar (0..1) where it has one."""

    text: str
    interval: str = ""
    mark: str = ""
    bar: float | None = None

    def __str__(self) -> str:
        mark = self.mark if self.mark in ("", BELOW) else f"({self.mark})"
        return " ".join(part for part in (self.text, self.interval, mark) if part)


TableRow = tuple[ScoreCell | str, ...]


@dataclass(frozen=True)
class Table:
    """A caption, a header and rows of equally many cells; ``n_trivial`` of the rows, the last ones, are trivial.

    ``notes`` say what the figures stand on: label policy, data and number of labels. ``spans`` are the widths of groups
    of columns after the first, where there are groups: a group's first heading is that of the whole group.
    """

    caption: str
    header: tuple[str, ...]
    rows: Sequence[TableRow]
    n_trivial: int = 0
    notes: tuple[str, ...] = ()
    spans: tuple[int, ...] = ()

    def markdown(self) -> str:
        """A GitHub Markdown table under its caption and notes."""
        lines = (self.header, ["---"] * len(self.header), *self.rows)
        return "\n\n".join([f"**{self.caption}**", *self.notes, "\n".join(map(_pipes, lines))])

    def latex(self, label: str) -> str:
        """A ``table``, trivial rows below a rule; needs the packages booktabs and graphicx (shrunk to the text)."""
        caption = ". ".join(part.rstrip(".") for part in (self.caption, *self.notes)) + "."
        body = [_tex_row(cells) for cells in self.rows]
        if self.n_trivial:
            body.insert(-self.n_trivial, r"\midrule")
        columns, label = "l" + "r" * (len(self.header) - 1), re.sub(r"[^\w:]+", "-", label)
        return "\n".join([
            r"\begin{table}", r"\centering", rf"\caption{{{_tex(caption)}}}", rf"\label{{tab:{label}}}",
            r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule", *self._latex_head(), r"\midrule", *body,
            r"\bottomrule", r"\end{tabular}}", r"\end{table}", "",
        ])  # fmt: skip

    def _latex_head(self) -> list[str]:
        if not self.spans:
            return [_tex_row(self.header)]
        titles, names, start = [""], [self.header[0]], 1
        for width in self.spans:
            titles.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(self.header[start])}}}")
            names += ["ours", *self.header[start + 1 : start + width]]
            start += width
        return [" & ".join(titles) + r" \\", _tex_row(names)]

    def terminal(self) -> RichTable:
        """The table for the terminal, its notes below."""
        view = RichTable(title=Text(printable(self.caption)), caption=Text(printable("\n".join(self.notes))))
        for i, title in enumerate(self.header):
            view.add_column(Text(printable(title)), justify="right" if i else "left")
        for row in self.rows:
            view.add_row(*(Text(printable(cell)) for cell in row))  # Text: an interval's bracket is no markup
        return view


def csv_text(frame: pd.DataFrame) -> str:
    """A tidy frame, one figure a line, as CSV: float columns with six decimals, missing cells empty."""
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.6f")


def interval_cell(figure: Interval | None, form: str = ".3f") -> ScoreCell:
    """A figure with its interval in the number format ``form``; None is missing, a NaN value undefined."""
    if figure is None:
        return ScoreCell(MISSING)
    if math.isnan(figure.value):
        return ScoreCell("undefined")
    bounds = "" if math.isnan(figure.low) else f"[{figure.low:{form}}, {figure.high:{form}}]"
    return ScoreCell(f"{figure.value:{form}}", bounds)


def _pipes(cells: Sequence[ScoreCell | str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _tex(text: str) -> str:
    return re.sub("|".join(re.escape(key) for key in _ESCAPED), lambda found: _ESCAPED[found[0]], text)


def _tex_row(cells: Sequence[ScoreCell | str]) -> str:
    return " & ".join(_tex(str(cell)) for cell in cells) + r" \\"
