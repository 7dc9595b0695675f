"""The tables of a study's figures, for the page, for Markdown, for a spreadsheet and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from rich.console import Console

from chexreason.errors import printable
from chexreason.progress import duration
from chexreason.reports.own_words import unknown_table
from chexreason.reports.tables import BELOW, STATISTIC_TITLES, ScoreCell, Table, csv_text
from chexreason.statistics.bootstrap import STATISTICS
from chexreason.statistics.comparable import UNRECORDED, basis
from chexreason.statistics.predictions import VOCABULARY

ARM_TITLES = {"base": "Base", "sft": "SFT", "grpo": "GRPO"}
TWIN = "permuted scores"  # the image-blind twin in a card of ``point_card``
_DECISIONS = {"own": "own answers", "cut": "cut", TWIN: "cut, no film"}
_BESIDE = ("micro_f1", "jaccard", "calls", "false_alarms")
_RATES = ("fail_rate", *VOCABULARY)  # of answers; a constant answer is always readable
_LONG = ("kind", "row", "dataset", "statistic", "value", "low", "high", "policy", "data_sha256")


def data_sets(figures: Mapping[str, Any]) -> list[str]:
    """Data sets of a study in order of first appearance."""
    return list(dict.fromkeys(name for by_set in figures["arms"].values() for name in by_set))


def arm_title(arm: str) -> str:
    """The display name of an arm."""
    return ARM_TITLES.get(arm, arm)


def pair_of(key: str, figures: Mapping[str, Any]) -> tuple[str, str]:
    """The two rows that are paired under ``before__after``; a name may hold ``__`` too."""
    rows = (*figures["trivial"], *figures["arms"])
    return next((a, b) for b in figures["arms"] for a in rows if key == f"{a}__{b}")


def best_trivial(figures: Mapping[str, Any], name: str) -> tuple[float, str]:
    """The highest macro-F1 of a trivial answer on the data set ``name``, and which answer that is."""
    return max((by_set[name]["macro_f1"], row) for row, by_set in figures["trivial"].items() if name in by_set)


def score_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """The table of each statistic, of what was said that is no label, and of the changes in macro-F1.

    These are "change", over all labels of a set, and "common", over the labels that all sets judge.
    """
    tables = {statistic: score_table(figures, statistic) for statistic in (*STATISTICS, *VOCABULARY)}
    tables["unknown_items"] = unknown_table(figures, data_sets(figures), ARM_TITLES)
    return tables | {"change": _change_table(figures), "common": _change_table(figures, over="common")}


def score_table(figures: Mapping[str, Any], statistic: str) -> Table:
    """Arms and trivial rows by data set, one statistic with its interval; F1 below a trivial row is marked as such."""
    sets = data_sets(figures)
    arms = [
        (ScoreCell(arm_title(arm)), *(_arm_cell(figures, by_set.get(name), name, statistic) for name in sets))
        for arm, by_set in figures["arms"].items()
    ]
    trivial = [
        (ScoreCell(row), *(ScoreCell(_number(by_set.get(name, {}).get(statistic))) for name in sets))
        for row, by_set in figures["trivial"].items()
        if statistic not in _RATES
    ]
    notes = (basis(figures["sets"]),)
    return Table(STATISTIC_TITLES[statistic], ("", *sets), [*arms, *trivial], len(trivial), notes)


def _change_table(figures: Mapping[str, Any], over: str = "") -> Table:
    """Paired differences in macro-F1 between arms by data set, with intervals and the relative change.

    ``over="common"``: over the labels that all sets judge; no rows where these are all labels of all sets.
    """
    sets, rows, n = data_sets(figures), [], len(figures["common"]["labels"])
    same = all(len(facts["labels"]) == n for facts in figures["sets"].values())
    paired = figures["paired"] if not over else {} if same else figures["common"]["paired"]
    for key, by_set in paired.items():
        step = " → ".join(map(arm_title, pair_of(key, figures)))
        rows.append((ScoreCell(step), *(_change_cell(by_set.get(name, {}).get("macro_f1")) for name in sets)))
    caption = f"Paired difference in {STATISTIC_TITLES['macro_f1']}"
    caption += f" over the {n} labels that all sets judge" if over else ""
    return Table(caption, ("", *sets), rows, notes=(basis(figures["sets"]),))


def point_figures(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a report shows of an operating point's card, which holds the rest."""
    shown = (*_DECISIONS, "all labels", f"skill above {TWIN}", "auroc")
    places = {name: {key: place[key] for key in shown} for name, place in card["places"].items()}
    return {"home": card["home"], "target": card["target"], "places": places}


def point_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """By data set: each arm's own answers, its labels by the cut of ``calibrate``, and its twin that sees no film."""
    tables = {}
    for name in data_sets(figures):
        rows: list[tuple[ScoreCell, ...]] = []
        for arm, card in figures["points"].items():
            if (place := card["places"].get(name)) is None:
                continue
            for kind, title in _DECISIONS.items():
                skill = _change_cell(place[f"skill above {TWIN}"]["macro_f1"]) if kind == "cut" else ScoreCell("")
                auroc = _score_cell(place["auroc"]) if kind == "own" else ScoreCell("")
                first = _score_cell(place[kind]["macro_f1"])
                others = [_score_cell({**place[kind][x], "low": None}) for x in _BESIDE]
                plain = [replace(cell, interval="") for cell in others]
                rows.append((ScoreCell(f"{arm_title(arm)}, {title}"), first, skill, *plain, auroc))
        if rows:
            of = {f"{card['target']} at {card['home']}" for card in figures["points"].values()}
            header = ("", "macro-F1", "skill", "micro-F1", "Jaccard", "labels a film", "false alarms", "AUROC")
            note = (
                "Cuts were fitted on validation films. No film: the same rule on scores permuted between patients. "
                "Skill: the cut minus that. False alarms are per 100 films."
            )
            tables[name] = Table(f"At {name}: cuts for {', '.join(sorted(of))}", header, rows, notes=(note,))
    return tables


def label_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """F1 of every evaluated label by arm, beside ``all_labels``, by data set; labels nobody judges are absent."""
    tables = {}
    for dataset in data_sets(figures):
        arms = [arm for arm, by_set in figures["arms"].items() if dataset in by_set]
        each = {arm: figures["arms"][arm][dataset]["per_label"] for arm in arms}
        floors = figures["trivial"]["all_labels"][dataset]["per_label"]
        rows = []
        for label, facts in each[arms[0]].items():
            floor = floors[label]
            scores = [each[arm][label]["f1"] for arm in arms]
            cells = [_score_cell(s, BELOW if _below(s["value"], floor) else "", bar=s["value"]) for s in scores]
            share = ScoreCell(f"{facts['support']} / {facts['judged']}")
            rows.append((ScoreCell(label), share, *cells, ScoreCell(f"{floor:.3f}", bar=floor)))
        header = ("Label", "positives / judged", *map(arm_title, arms), "all_labels")
        caption = f"F1 by label, {dataset} ({BELOW} below all_labels)"
        tables[dataset] = Table(caption, header, rows, notes=(basis({dataset: figures["sets"][dataset]}),))
    return tables


def stage_table(stages: list[dict[str, Any]]) -> Table:
    """Time and peak memory of each stage."""
    rows = [
        (ScoreCell(s["name"]), ScoreCell(duration(s["seconds"])), ScoreCell(f"{s['peak_rss_bytes'] / 2**30:.2f} GiB"))
        for s in stages
    ]
    return Table("Time and memory", ("Stage", "time", "peak memory"), rows)


def long_csv(figures: Mapping[str, Any]) -> str:
    """All scores as CSV, one figure a line: kind, row, dataset, statistic, value, low, high, policy, data_sha256."""
    sets = figures["sets"]
    lines = [(*line, sets[line[2]]["policy"], sets[line[2]]["data_sha256"]) for line in _long_lines(figures)]
    return csv_text(pd.DataFrame(lines, columns=_LONG, dtype=object))  # object: every digit of a float


def print_summary(figures: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the verdict, macro-F1 and paired differences of a report to the terminal."""
    console = console or Console()
    changes = (_change_table(figures), _change_table(figures, over="common"))
    points = [replace(t, header=t.header[:3], rows=[row[:3] for row in t.rows]) for t in point_tables(figures).values()]
    for table in (score_table(figures, "macro_f1"), *changes, *points):
        if table.rows:
            console.print(table.terminal())
    console.print(printable(" ".join(figures["verdict"])), markup=False, highlight=False)


def _arm_cell(figures: Mapping[str, Any], scores: Mapping[str, Any] | None, dataset: str, statistic: str) -> ScoreCell:
    if scores is None:
        return ScoreCell("n/a")
    score, above = scores[statistic], []
    if statistic in VOCABULARY and score["value"] is None:
        return ScoreCell(UNRECORDED)
    if statistic not in _RATES:
        trivial = {row: by_set[dataset][statistic] for row, by_set in figures["trivial"].items() if dataset in by_set}
        above = [row for row, value in trivial.items() if _below(score["value"], value)]
    return _score_cell(score, f"below {', '.join(above)}" if above else "")


def _below(value: float | None, floor: float | None) -> bool:
    return value is not None and floor is not None and value < floor


def _score_cell(score: Mapping[str, float | None], mark: str = "", bar: float | None = None) -> ScoreCell:
    return ScoreCell(_number(score["value"]), _bounds(score, ".3f"), mark, bar)


def _change_cell(change: Mapping[str, float | None] | None) -> ScoreCell:
    if change is None or change["value"] is None:
        return ScoreCell("n/a")
    relative = change.get("relative")
    return ScoreCell(f"{change['value']:+.3f}", _bounds(change, "+.3f"), "" if relative is None else f"{relative:+.0%}")


def _bounds(score: Mapping[str, float | None], form: str) -> str:
    low, high = score["low"], score["high"]
    return "[undefined]" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _long_lines(figures: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for kind in ("arms", "paired"):
        for row, by_set in figures[kind].items():
            for dataset, scores in by_set.items():
                found = {statistic: scores[statistic] for statistic in (*STATISTICS, *VOCABULARY)}
                found |= {f"f1/{label}": facts["f1"] for label, facts in scores.get("per_label", {}).items()}
                yield from ((kind, row, dataset, s, f["value"], f["low"], f["high"]) for s, f in found.items())
    for row, by_set in figures["trivial"].items():
        for dataset, scores in by_set.items():
            yield from (("trivial", row, dataset, statistic, scores[statistic], None, None) for statistic in STATISTICS)
