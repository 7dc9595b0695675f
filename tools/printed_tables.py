"""chexreason/reports/paper/paper.md: what the paper's printed tables say without any run.

Changes between models, reversed ranks, models below a constant answer. Run it after a change of the printed tables:
    python -m tools.printed_tables
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np

from chexreason.files import write_text
from chexreason.reports import printed as shipped
from chexreason.reports.printed import MACRO, Printed, all_labels, printed
from chexreason.reports.tables import Table

PAGE = Path(shipped.__file__).parent / "paper" / "paper.md"  # shipped, as ``table=paper`` of chexreason.cli.tables
BASIS = "As printed in arXiv 2512.23090: no intervals, so no change here is known to be more than chance."
STEPS = (("medgemma", "medgemma_sft"), ("medgemma_sft", "chexreason"), ("medgemma", "chexreason"))


def on_common_labels() -> tuple[list[str], dict[str, float], dict[str, float]]:
    """The labels that Tables 5 (CheXpert) and 6 (NIH) both print, and each model's macro-F1 over them in either."""
    tables = printed("table5").rows, printed("table6").rows
    labels = [label for label in tables[0] if label in tables[1] and label != MACRO]

    def macro(rows: dict[str, dict[str, float]], model: str) -> float:
        whole = len(rows) == len(labels) + 1  # the printed average is rounded once, its labels each
        return rows[MACRO][model] if whole else fmean(rows[label][model] for label in labels)

    home, away = ({model: macro(rows, model) for model in rows[MACRO]} for rows in tables)
    return labels, home, away


def printed_transfer() -> Table:
    """Changes in macro-F1 over the common labels of Tables 5 and 6, both external, and the fraction retained on NIH."""
    labels, home, away = on_common_labels()
    rows = []
    for a, b in (*STEPS, ("qwen2_5_vl", "medgemma"), ("chexreason", "nv_reason")):
        cells = [f"{at[b] - at[a]:+.3f}" for at in (home, away)]
        rows.append(
            (f"{a} → {b}", *cells, f"{away[b] / away[a]:.2f}", f"{(away[b] - home[b]) - (away[a] - home[a]):+.3f}")
        )
    header = ("", "CheXpert", "NIH", "retained on NIH", "NIH - CheXpert")
    caption = f"Change between the paper's models in macro-F1 over the {len(labels)} labels of both sets"
    return _table(caption, header, rows)


def printed_models() -> Table:
    """Macro-F1 of each model of Tables 5 and 6 beside answering every label, which only CheXpert's counts allow."""
    floor, (labels, common, _) = all_labels(), on_common_labels()
    home, away = printed("table5").rows[MACRO], printed("table6").rows[MACRO]
    rows = [
        (m, f"{home[m]:.3f}", "below" if home[m] < floor[MACRO] else "", f"{common[m]:.3f}", f"{away[m]:.3f}")
        for m in home
    ]
    both = fmean(floor[label] for label in labels)
    rows.append(("all_labels (computed, not printed)", f"{floor[MACRO]:.3f}", "", f"{both:.3f}", "—"))
    nine = f"{len(labels)} labels"
    header = ("", "CheXpert, 14 labels", f"all_labels {floor[MACRO]:.3f}", f"CheXpert, {nine} of NIH", f"NIH, {nine}")
    return _table("The paper's models beside answering all labels", header, rows)


def rank_reversal(a: Printed, b: Printed, statistic: str) -> tuple[list[tuple[str, str]], float]:
    """The pairs of rows that two tables order oppositely, and Kendall's tau of the two orders (ties count nothing)."""
    names = [name for name in a.rows if name in b.rows]
    signs = {
        (x, y): np.sign((a.rows[x][statistic] - a.rows[y][statistic]) * (b.rows[x][statistic] - b.rows[y][statistic]))
        for x, y in combinations(names, 2)
    }
    return [pair for pair, sign in signs.items() if sign < 0], sum(signs.values()) / len(signs)


def printed_ranks() -> Table:
    """The four SFT arms' ranks on the medical (Table 2) and the general model (Table 3)."""
    medical, general = printed("table2"), printed("table3")
    rows = []
    for name in medical.rows:
        cells = [
            f"{_rank(t, name, s)} ({t.rows[name][s]:.3f})" for s in ("macro_f1", "micro_f1") for t in (medical, general)
        ]
        rows.append((name, *cells))
    header = ("SFT arm", "macro-F1, medical", "general", "micro-F1, medical", "general")
    return _table("Ranks of the SFT arms in Tables 2 and 3", header, rows)


def sentences() -> list[str]:
    """What these tables amount to, in words."""
    home, away = printed("table5").rows[MACRO], printed("table6").rows[MACRO]
    labels, common, _ = on_common_labels()
    n = len(labels)
    floor, sft, grpo = all_labels()[MACRO], "medgemma_sft", "chexreason"
    below = [f"{model} ({score:.3f})" for model, score in home.items() if score < floor]
    found = [
        f"From {sft} to {grpo} the printed macro-F1 changes by {home[grpo] - home[sft]:+.3f} on CheXpert, over 14 "
        f"labels, and by {away[grpo] - away[sft]:+.3f} on NIH, over {n}. Over the {n} labels that both judge the "
        f"change on CheXpert is {common[grpo] - common[sft]:+.3f}: {common['medgemma']:.3f} (medgemma), "
        f"{common[sft]:.3f} ({sft}), {common[grpo]:.3f} ({grpo}). On NIH {away[grpo] / away[sft]:.0%} is retained.",
        f"Answering all fourteen labels for every image has macro-F1 {floor:.3f} on the 500 studies of CheXpert's "
        f"published test labels (the paper scores 518 of their images); below it: {', '.join(below)}. The counts of "
        "the paper's 488 NIH images are not published.",
    ]
    for statistic in ("macro_f1", "micro_f1"):
        reversed_pairs, tau = rank_reversal(printed("table2"), printed("table3"), statistic)
        words = ", ".join(f"{x} / {y}" for x, y in reversed_pairs)
        found.append(
            f"Tables 2 and 3 order {len(reversed_pairs)} of 6 pairs of arms oppositely by {statistic} "
            f"(Kendall's tau {tau:+.2f}): {words}."
        )
    return found


def page() -> str:
    """The paper's own figures as Markdown."""
    tables = (printed_transfer(), printed_models(), printed_ranks())
    return "\n\n".join(["# What the paper's own tables say", *sentences(), *(t.markdown() for t in tables)]) + "\n"


def _table(caption: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    return Table(caption, header, rows, notes=(BASIS,))


def _rank(table: Printed, name: str, statistic: str) -> int:
    return 1 + sum(row[statistic] > table.rows[name][statistic] for row in table.rows.values())


if __name__ == "__main__":
    write_text(PAGE, page())
