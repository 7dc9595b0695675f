"""The figures of a review, from its sample and decisions alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from chexreason.review.decision import VERDICTS, Decision
from chexreason.statistics.kappa import kappa, share, word_distance
from chexreason.traces.trace import Trace

_Own = dict[tuple[str, str], Decision]  # one reader's decisions, by study and prompt


def summarise(
    sample: Sequence[Trace],
    decisions: Sequence[Decision],
    labels: Sequence[str],
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Verdicts, edit distances and reasons of each reader, acceptance per label, agreement of each pair.

    Rows follow ``labels``; ones that no sampled trace has are left out. Everything is strict JSON: what is not defined
    is None.
    """
    traces = {trace.key: trace for trace in sample}
    by_reader: dict[str, _Own] = {}
    for decision in decisions:
        if decision.key in traces:
            by_reader.setdefault(decision.reviewer, {})[decision.key] = decision
    return {
        "n_traces": len(sample),
        "n_patients": len({trace.patient_id for trace in sample}),
        "reviewers": {name: _reader(traces, by_reader[name]) for name in sorted(by_reader)},
        "labels": _per_label(sample, by_reader, labels),
        "agreement": [
            {"reviewers": [a, b], **_agreement(traces, by_reader[a], by_reader[b], n_resamples, seed)}
            for a, b in combinations(sorted(by_reader), 2)
        ],
        "n_resamples": n_resamples,
        "seed": seed,
    }


def _reader(traces: Mapping[tuple[str, str], Trace], own: _Own) -> dict[str, Any]:
    verdicts = Counter(decision.verdict for decision in own.values())
    edited = [(word_distance(traces[key].text, d.text), traces[key]) for key, d in own.items() if d.verdict == "edit"]
    return {
        "decided": len(own),
        **{verdict: verdicts[verdict] for verdict in VERDICTS},
        "acceptance": share(verdicts["accept"], len(own)),
        "words_changed": {
            "median": median(n for n, _ in edited) if edited else None,
            "most": max((n for n, _ in edited), default=None),
            "median_share": median(n / len(trace.text.split()) for n, trace in edited) if edited else None,
        },
        "reasons": dict(Counter(d.reason for d in own.values() if d.reason).most_common()),
    }


def _per_label(sample: Sequence[Trace], by_reader: Mapping[str, _Own], labels: Sequence[str]) -> dict[str, Any]:
    """Acceptance by label over all readers' decisions together, and the number of traces sampled for it."""
    present = {label for trace in sample for label in trace.strata}
    figures = {}
    for label in [*(name for name in labels if name in present), *sorted(present - set(labels))]:
        keys = [trace.key for trace in sample if label in trace.strata]
        verdicts = [own[key].verdict for own in by_reader.values() for key in keys if key in own]
        figures[label] = {"traces": len(keys), **share(verdicts.count("accept"), len(verdicts))}
    return figures


def _agreement(
    traces: Mapping[tuple[str, str], Trace], first: _Own, second: _Own, n_resamples: int, seed: int
) -> dict[str, Any]:
    """Agreement on what both have decided."""
    both = [key for key in traces if key in first and key in second]
    if not both:
        return {"n": 0}
    own, other = [first[key].verdict for key in both], [second[key].verdict for key in both]
    return kappa(own, other, [traces[key].patient_id for key in both], n_resamples, seed)


def headlines(figures: Mapping[str, Any]) -> list[str]:
    """The headline figures, one line each."""
    lines = [
        f"{name}: {own['decided']} of {figures['n_traces']} decided, {own['accept']} accepted, {own['edit']} edited, "
        f"{own['reject']} rejected"
        for name, own in figures["reviewers"].items()
    ]
    for pair in figures["agreement"]:
        names = " and ".join(pair["reviewers"])
        if not pair["n"]:
            lines.append(f"{names}: no trace decided by both yet")
        elif pair["value"] is None:
            lines.append(f"{names}: same verdict on all {pair['n']} traces, kappa not defined")
        else:
            bounds = "" if pair["low"] is None else f" [{pair['low']:.2f}, {pair['high']:.2f}]"
            lines.append(f"{names}: Cohen's kappa {pair['value']:.2f}{bounds} on {pair['n']} traces decided by both")
    return lines or ["no decisions yet"]
