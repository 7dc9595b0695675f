"""The acceptance report: traces accepted, rejections of each rule, counts of each label, endpoints asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from chexreason.labels.schema import LabelSet
from chexreason.traces.store import ANSWERED, TraceStore
from chexreason.traces.verify import TRACE_RULES

# Requests by outcome; one without an outcome was in flight when the process died.
_OUTCOMES = "SELECT COALESCE(outcome, 'lost in flight'), COUNT(*) FROM request GROUP BY 1 ORDER BY 1"

_PLACE = ("endpoint", "agreement", "requests", "studies", "first", "last")
_PLACES = (
    "SELECT endpoint, agreement, COUNT(*), COUNT(DISTINCT study_id), MIN(sent_at), MAX(sent_at)"
    " FROM request GROUP BY endpoint, agreement ORDER BY MIN(id)"
)


def acceptance(store: TraceStore, label_set: LabelSet, attempts: int, unaskable: int = 0) -> dict[str, Any]:
    """Counts and rates of a run so far, JSON-ready.

    A study is set aside once ``attempts`` answers were rejected, and open until then; ``unaskable`` studies have labels
    that no answer fits. An answer may break several rules.
    """
    standing = store.progress()
    accepted = {study_id for study_id, stand in standing.items() if stand.accepted}
    groups = {
        "studies": set(standing),
        "accepted": accepted,
        "accepted_at_once": {study_id for study_id in accepted if standing[study_id].judged == 1},
        "set_aside": {name for name, stand in standing.items() if not stand.accepted and stand.judged >= attempts},
    }
    n = {name: len(group) for name, group in groups.items()}
    judged = store.rows("SELECT faults FROM request WHERE accepted IS NOT NULL")
    broken = Counter(rule for (faults,) in judged for rule, _ in json.loads(faults))
    tokens = store.rows("SELECT COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0) FROM request")[0]
    return {
        "asked": dict(store.rows("SELECT key, value FROM identity ORDER BY key")),
        **n,
        "open": n["studies"] - n["accepted"] - n["set_aside"],
        "unaskable": unaskable,
        "answers": len(judged),
        "requests": dict(store.rows(_OUTCOMES)),
        "usd": round(store.spent(), 6),
        "tokens_in": tokens[0],
        "tokens_out": tokens[1],
        "sent_to": [dict(zip(_PLACE, row, strict=True)) for row in store.rows(_PLACES)],
        "rules": {rule: {"answers": broken[rule], "share": _share(broken[rule], len(judged))} for rule in TRACE_RULES},
        "labels": _per_label(store, label_set, groups),
    }


def _per_label(store: TraceStore, label_set: LabelSet, groups: Mapping[str, set[str]]) -> dict[str, Any]:
    of = {study_id: json.loads(labels) for study_id, labels in store.rows("SELECT study_id, labels FROM study")}
    rows = {}
    for label in label_set:
        row = {name: sum(label in of[study_id] for study_id in group) for name, group in groups.items()}
        rows[label] = row | {"share": _share(row["accepted"], row["studies"])}
    return rows


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as a page of tables."""
    asked = report["asked"]
    answered = report["requests"].get(ANSWERED, 0)
    rules = [(rule, row["answers"], _percent(row["share"])) for rule, row in report["rules"].items()]
    counts = ("studies", "accepted", "accepted_at_once", "set_aside")
    labels = [
        (label, *(row[name] for name in counts), _percent(row["share"])) for label, row in report["labels"].items()
    ]
    places = [
        (place["endpoint"] or "nobody", place["agreement"] or "-", place["requests"], place["studies"])
        for place in report["sent_to"]
    ]
    lines = [
        f"# Traces for `{asked['prompt']}` by {asked['model']}",
        "",
        f"{report['accepted']:,} of {report['studies']:,} studies have an accepted trace "
        f"({report['accepted_at_once']:,} at the first answer); {report['set_aside']:,} are set aside, "
        f"{report['open']:,} open, {report['unaskable']:,} not asked about (no positive label, or No Finding beside a "
        f"disease).",
        f"{answered:,} answers to {sum(report['requests'].values()):,} requests, {report['usd']:.2f} USD, "
        f"{report['tokens_in']:,} tokens in, {report['tokens_out']:,} out.",
        *_table("rule | answers rejected by it | share", rules),
        *_table("label | studies | accepted | at the first answer | set aside | share accepted", labels),
        *_table("sent to | under | requests | studies", places),
    ]
    return "\n".join(lines) + "\n"


def _table(head: str, rows: Iterable[tuple[object, ...]]) -> list[str]:
    """A blank line and the lines of a Markdown table."""
    filled = (" | ".join(map(str, row)) for row in rows)
    return ["", f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {row} |" for row in filled)]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
