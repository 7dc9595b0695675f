"""The results of a review: decisions as CSV and JSON, agreement, and the reviewed traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from chexreason.files import write_json, write_text
from chexreason.review.decision import Decision
from chexreason.review.summary import summarise
from chexreason.statistics.kappa import word_distance
from chexreason.traces.trace import Trace, write_traces

_COLUMNS = (*(f.name for f in fields(Decision)), "words_changed")
_SHOWN = 3


def apply_review(traces: Sequence[Trace], decisions: Sequence[Decision]) -> list[Trace]:
    """``traces`` without those that a reader rejected, with the edited texts in place of the old ones.

    A trace that nobody decided on stays as it is. Where two readers edited one trace, the text of whoever comes first
    in ``decisions`` counts. Raises ValueError on decisions about traces that are not there or have other words now.
    """
    by_key = {trace.key: trace for trace in traces}
    foreign = [d for d in decisions if d.key not in by_key or by_key[d.key].text_sha256 != d.text_sha256]
    if foreign:
        shown = "; ".join(f"{d.study_id} / {d.prompt} by {d.reviewer}" for d in foreign[:_SHOWN])
        raise ValueError(
            f"{len(foreign)} of {len(decisions)} decisions are about traces that are missing or have other words now: "
            f"{shown}. Apply them to the file that was reviewed"
        )
    rejected = {d.key for d in decisions if d.verdict == "reject"}
    edited = {d.key: d.text for d in reversed(decisions) if d.verdict == "edit"}  # the first of two stays
    return [replace(t, text=edited.get(t.key, t.text)) for t in traces if t.key not in rejected]


def export_review(
    folder: Path,
    traces: Sequence[Trace],
    sample: Sequence[Trace],
    decisions: Sequence[Decision],
    labels: Sequence[str],
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes decisions.csv, decisions.json, agreement.json and traces.jsonl into ``folder``; returns the figures.

    ``traces`` is the whole file that ``sample`` was drawn from; the order of ``decisions`` settles which of two edits
    counts.
    """
    figures = summarise(sample, decisions, labels, n_resamples, seed)
    by_key = {trace.key: trace for trace in sample}
    shown = [(d, by_key[d.key].text) for d in decisions if d.key in by_key]
    distances = [word_distance(text, d.text) if d.verdict == "edit" else None for d, text in shown]
    rows = [asdict(d) | {"words_changed": n} for (d, _), n in zip(shown, distances, strict=True)]
    reviewed = apply_review(traces, decisions)
    write_json(folder / "decisions.json", rows)
    cells = pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object).map(_cell)
    write_text(folder / "decisions.csv", cells.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "agreement.json", figures)
    write_traces(folder / "traces.jsonl", reviewed)
    return figures


def _cell(value: object) -> str:
    """A cell that no spreadsheet reads as a formula; the JSON file holds every text unchanged."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
