"""LaTeX of the results: a booktabs table from finished cells, and text that stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chexreason.evaluation.tables import Table

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
