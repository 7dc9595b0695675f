"""What an arm attains at its cuts over several seeds, from the cards of ``calibrate``, as Markdown.

    python -m tools.cut_table out/seed11/demo/calibrate/sft out/seed12/demo/calibrate/sft ...

A row a place and seed, then the mean; ``skill`` is the cut minus the same rule on permuted scores. The interval of the
mean skill is over seeds (Student), each of which has patients of its own. Below are the means of other figures of own
answers and cut, and of the gain by labelled patients (``few_labels=``) where the cards have it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import t

from chexreason.reports.point_card import remedy_row

_COLUMNS = ("own", "cut", "permuted scores", "all labels", "auroc")


def main(folders: list[str]) -> None:
    """Print the table."""
    cards = {folder: json.loads((Path(folder) / "card.json").read_text()) for folder in folders}
    print(f"Cuts for {', '.join(sorted({card['target'] for card in cards.values()}))}\n")
    print("| place | run | " + " | ".join((*_COLUMNS, "skill", "calibration error, before → after")) + " |")
    print("|---" * (len(_COLUMNS) + 4) + "|")
    for place in next(iter(cards.values()))["places"]:
        rows, skills, errors = [], [], []
        for folder, card in cards.items():
            found = card["places"][place]
            skill, error = found["skill above permuted scores"]["macro_f1"], found["calibration_error"]
            rows.append([remedy_row(found)[name] for name in _COLUMNS])
            skills.append(skill["value"])
            errors.append([error["uncalibrated"], error["calibrated"]])
            told = f"{skill['value']:+.3f} [{skill['low']:+.3f}, {skill['high']:+.3f}]"
            print(_line(place, folder, rows[-1], told, errors[-1]))
        n, mean = len(skills), float(np.mean(skills))
        half = float(t.ppf(0.975, n - 1) * np.std(skills, ddof=1) / n**0.5) if n > 1 else float("nan")
        told = f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}] over {n} seeds"
        print(_line(place, "mean", np.mean(rows, axis=0).tolist(), told, np.mean(errors, axis=0).tolist()))
    print()
    for place in next(iter(cards.values()))["places"]:
        found = [card["places"][place] for card in cards.values()]
        for name in ("micro_f1", "calls", "false_alarms"):
            own, cut = (np.mean([one[kind][name]["value"] for one in found]) for kind in ("own", "cut"))
            print(f"{place}, {name}: own {own:.3f}, cut {cut:.3f}")
        for way, by_n in found[0].get("few_labels", {}).items():
            means = {n: np.mean([one["few_labels"][way][n]["value"] for one in found]) for n in by_n}
            print(f"{place}, {way}: " + ", ".join(f"{n}: {gain:+.3f}" for n, gain in means.items()))


def _line(place: str, run: str, row: list[float], skill: str, errors: list[float]) -> str:
    cells = [place, run, *(f"{value:.3f}" for value in row), skill, " → ".join(f"{e:.3f}" for e in errors)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
