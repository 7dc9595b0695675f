"""Answers in the model's own words, as a report shows them: a sentence where a change comes with them, and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from chexreason.reports.tables import STATISTIC_TITLES, ScoreCell, Table
from chexreason.statistics.comparable import UNRECORDED

_LONGEST = 60  # characters shown of an item


def vocabulary_sentence(before: str, after: str, place: str, shift: Mapping[str, Any]) -> str:
    """What a ``vocabulary_shift`` says about the step between two arms on one data set."""
    how, read = ("gain", "can") if shift["change"]["value"] > 0 else ("loss", "cannot")
    none, some = (
        f"{shift['before'][rate]:.0%} of the answers of {before} and {shift['after'][rate]:.0%} of {after}"
        for rate in ("no_label_rate", "unknown_rate")
    )
    said = (
        f"At {place}, part of the {how} of {after} against {before} ({shift['change']['value']:+.3f}) comes with "
        f"answers that the label list {read} read: {none} name no known label, {some} have an item that is no label"
    )
    both = f"where both name {'labels alone' if shift['alone'] else 'a known label'}"
    if shift["readable"] is None:
        return f"{said}; no study is left {both}."
    value, low, high = (shift["readable"][bound] for bound in ("value", "low", "high"))
    bounds = "" if low is None or math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"{said}; on the {shift['n_readable']} studies {both}, the change is {value:+.3f}{bounds}."


def unknown_table(figures: Mapping[str, Any], sets: Sequence[str], titles: Mapping[str, str]) -> Table:
    """The most frequent items that are no labels, of each arm by data set, with the number of their occurrences."""
    rows = [
        tuple(map(ScoreCell, (titles.get(arm, arm), *(_items(by_set.get(name)) for name in sets))))
        for arm, by_set in figures["arms"].items()
    ]
    return Table("Most frequent items that are no labels", ("", *sets), rows)


def rates_table(rates: Mapping[str, Mapping[str, Mapping[str, float]]], sets: Sequence[str]) -> Table:
    """The rates of answers in other words, of each arm by data set; without rows where no file records them."""
    rows = []
    for arm, by_set in rates.items():
        pairs = [tuple(by_set[name].values()) for name in sets]
        rows.append((arm, *(UNRECORDED if math.isnan(some) else f"{some:.1%}, {none:.1%}" for some, none in pairs)))
    rows = rows if any(UNRECORDED not in row for row in rows) else []
    caption = f"{STATISTIC_TITLES['unknown_rate']}, {STATISTIC_TITLES['no_label_rate']}".capitalize()
    return Table(caption, ("", *sets), rows)


def _items(scores: Mapping[str, Any] | None) -> str:
    if scores is None or scores["unknown_items"] is None:
        return "n/a" if scores is None else UNRECORDED
    # As code, for model text is no markup of a Markdown file.
    plain = (("".join(c if c.isprintable() and c != "`" else "?" for c in x), n) for x, n in scores["unknown_items"])
    return ", ".join(f"`{x[:_LONGEST]}{'…' * (len(x) > _LONGEST)}` {n}" for x, n in plain) or "none"
