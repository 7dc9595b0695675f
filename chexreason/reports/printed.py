"""The figures printed in the paper's Tables 1 to 6 (arXiv 2512.23090): facts to stand beside ours."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from chexreason.labels.catalog import CHEXPERT_STUDIES, CHEXPERT_TEST

_FOLDER = Path(__file__).parent / "paper"
MACRO = "Macro average"
# How the printed columns of Tables 1 to 4 are called here; those of Tables 5 and 6 are models, their rows labels.
_STATISTIC = {
    "micro_p": "micro_precision",
    "micro_r": "micro_recall",
    "micro_f1": "micro_f1",
    "macro_p": "macro_precision",
    "macro_r": "macro_recall",
    "macro_f1": "macro_f1",
    "fail_rate": "fail_rate",
}
TITLES = {
    "table1": "Prompts, zero-shot, on the medical model",
    "table2": "SFT arms on the medical model",
    "table3": "SFT arms on the general model",
    "table4": "GRPO rewards",
    "table5": "F1 by label on the first test set (CheXpert in the paper)",
    "table6": "F1 by label on the second test set (NIH in the paper)",
}


@dataclass(frozen=True)
class Printed:
    """One printed table: a figure by row and column; ``by_label`` where the rows are labels and the columns models."""

    name: str
    by_label: bool
    columns: tuple[str, ...]
    rows: dict[str, dict[str, float]]

    @property
    def runs(self) -> tuple[str, ...]:
        """What was run for it: the rows of Tables 1 to 4, the columns of Tables 5 and 6."""
        return self.columns if self.by_label else tuple(self.rows)

    def run(self, name: str) -> str:
        """The run called ``name`` in any spelling of its separators; raises ValueError naming the closest one."""
        known = {_plain(run): run for run in self.runs}
        if _plain(name) not in known:
            close = get_close_matches(_plain(name), known, n=1)
            hint = f"; did you mean '{known[close[0]]}'?" if close else ""
            raise ValueError(f"{self.name} of the paper has no row '{name}'; it has: {', '.join(self.runs)}{hint}")
        return known[_plain(name)]


def printed(name: str) -> Printed:
    """The printed table ``table1`` ... ``table6``; raises ValueError on another name."""
    if name not in TITLES:
        raise ValueError(f"the paper has no '{name}'; it has: {', '.join(TITLES)}")
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    by_label = header[0] == "label"
    n_keys = 1 if by_label else sum(column not in _STATISTIC for column in header)
    columns = tuple(header[n_keys:]) if by_label else tuple(_STATISTIC[column] for column in header[n_keys:])
    rows = {
        " ".join(line[:n_keys]): dict(zip(columns, (float(cell) for cell in line[n_keys:]), strict=True))
        for line in lines
    }
    return Printed(name, by_label, columns, rows)


def all_labels() -> dict[str, float]:
    """F1 of answering every label for every image on CheXpert's test labels, 2 p / (1 + p) a label, and the mean."""
    scores = {label: 2 * k / (CHEXPERT_STUDIES + k) for label, k in CHEXPERT_TEST.items()}
    return {**scores, MACRO: sum(scores.values()) / len(scores)}


def printed_page() -> str:
    """What the printed tables say without any run, as Markdown; ``tools.printed_tables`` computes it from them."""
    return (_FOLDER / "paper.md").read_text(encoding="utf-8")


def printed_sentences() -> list[str]:
    """The paragraphs of ``printed_page`` between its heading and its first table."""
    return re.split(r"\n\n(?=\*\*)", printed_page())[0].split("\n\n")[1:]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()
