"""The report of a study: one page to read, and every figure on it as JSON, CSV and Markdown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from chexreason.files import finite, write_json, write_text
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.reports.cases import build_cases
from chexreason.reports.history import read_history, read_rewards
from chexreason.reports.payload import StudyFigures, reward_figures, study_figures
from chexreason.reports.pictures import withheld
from chexreason.reports.report_page import write_page
from chexreason.reports.study_tables import (
    ARM_TITLES,
    label_tables,
    long_csv,
    point_figures,
    point_tables,
    score_tables,
)
from chexreason.reports.tables import COVERAGE
from chexreason.reports.verdict import verdict
from chexreason.statistics.comparable import UNRECORDED
from chexreason.statistics.predictions import labelled_sets, read_predictions
from chexreason.types import Prediction

_IMAGES = ("embedded", "folder", "none")


def build_report(
    arms: Mapping[str, Path],
    out: Path,
    *,
    title: str,
    label_set: LabelSet = CHEXPERT14,
    train_prevalence: Mapping[str, float] | None = None,
    curves: Mapping[str, Path] | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    attributions: Sequence[Path] = (),
    n_resamples: int = 10_000,
    seed: int = 0,
    n_cases: int = 24,
    images: str = "embedded",
    public: Collection[str] = (),
    allow_export: str | None = None,
    notes: Mapping[str, str] | None = None,
    declarations: Mapping[str, Mapping[str, str]] | None = None,
    cards: Mapping[str, Mapping[str, Any]] | None = None,
) -> StudyFigures:
    """Writes report.html, .json, .md and .csv into ``out`` and returns what the JSON holds.

    ``arms`` maps each arm, in the order of training, to its predictions.jsonl; ``curves`` maps runs to the metrics.csv
    in their folder; ``stages`` hold name, seconds and peak_rss_bytes; ``attributions`` are the licence texts of the
    images shown, which are "embedded" in the page, lie beside it ("folder") or are left out ("none"), as ``images``
    says; those of sets that are not ``public`` only under the agreement named in ``allow_export``. ``declarations`` say
    in words what the labels of each prepared set mean (``policy``, ``data_sha256``, ``text``). ``cards`` are those of
    the arms' operating points (``point_card``). Changes on the other data sets are compared with those on the first.
    Raises ValueError or FileNotFoundError naming file, line and way out.
    """
    if images not in _IMAGES:
        raise ValueError(f"unknown images '{images}'; known: {', '.join(_IMAGES)}")
    predictions = _labelled(arms)
    hidden = withheld([row for rows in predictions.values() for row in rows], public, allow_export, declarations or {})
    runs = {run: read_history(path) for run, path in (curves or {}).items()}
    rewards = [reward_figures(read_rewards(path.parent), n_resamples, seed) for path in (curves or {}).values()]
    figures: StudyFigures = finite({
        "title": title,
        "n_resamples": n_resamples,
        "seed": seed,
        **study_figures(predictions, label_set, train_prevalence or {}, n_resamples=n_resamples, seed=seed),
        "grpo": next((found for found in rewards if found), {}),
        "stages": [dict(stage) for stage in stages],
        "notes": dict(notes or {}),
        "names": ARM_TITLES,
        "points": {arm: point_figures(card) for arm, card in (cards or {}).items() if arm in arms},
    })  # fmt: skip
    for name, facts in figures["sets"].items():
        facts["declaration"] = _declaration(facts, (declarations or {}).get(name))
    figures["verdict"] = verdict(figures)
    cases = build_cases(predictions, n_cases, seed=seed, images=images != "none", withheld=hidden)
    licences = [path.read_text(encoding="utf-8") for path in attributions] if images != "none" else []
    write_json(out / "report.json", figures)
    write_text(out / "report.csv", long_csv(figures))
    write_text(out / "report.md", _markdown(figures))
    write_page(out, figures, runs, cases, licences, embedded=images == "embedded", withheld=hidden)
    return figures


def _labelled(arms: Mapping[str, Path]) -> dict[str, list[Prediction]]:
    if not arms:
        raise ValueError("a report needs at least one arm: {'base': Path('.../predictions.jsonl')}")
    predictions = {arm: labelled_sets(read_predictions(path)) for arm, path in arms.items()}
    if lost := [arm for arm, found in predictions.items() if not found]:
        raise ValueError(f"no set that {', '.join(lost)} answered has labels, so no figure can be reported: see shift")
    return predictions


def _declaration(facts: Mapping[str, Any], prepared: Mapping[str, str] | None) -> str:
    """The declaration of a prepared set where it is the one the predictions were scored on, else what differs."""
    if prepared is None:
        return ""
    changed = [
        f"{field} is now '{prepared[field]}', and was '{facts[field]}'"
        for field in ("policy", "data_sha256")
        if facts[field] not in (prepared[field], UNRECORDED)
    ]
    if changed:
        return f"Declared otherwise since these predictions: {'; '.join(changed)}"
    unsure = UNRECORDED in (facts["policy"], facts["data_sha256"])
    return ("As declared now; these predictions do not record theirs.\n" if unsure else "") + prepared["text"]


def _markdown(figures: StudyFigures) -> str:
    tables = [f(figures).values() for f in (score_tables, point_tables, label_tables)]
    parts = [
        f"# {figures['title']}",
        " ".join(figures["verdict"]),
        *(t.markdown() for t in chain(*tables) if t.rows),
        COVERAGE,
    ]
    declared = [facts["declaration"].rstrip() for facts in figures["sets"].values() if facts["declaration"]]
    if declared:
        parts += ["**What the labels mean**", *(f"```\n{text}\n```" for text in declared)]
    return "\n\n".join(parts) + "\n"
