"""Every figure of a study, as one plain dictionary: what report.json holds and report.html shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pandas as pd

from chexreason.labels.schema import LabelSet
from chexreason.reports.history import ends, fifths
from chexreason.statistics.bootstrap import STATISTICS, Replicates, intervals, paired, replicates
from chexreason.statistics.comparable import set_facts
from chexreason.statistics.metrics import confusion
from chexreason.statistics.predictions import VOCABULARY, counts, datasets, evaluated_labels
from chexreason.statistics.trivial import best_constant_answer, trivial_rows
from chexreason.statistics.vocabulary import frequent_unknown, vocabulary_shift
from chexreason.types import Prediction

StudyFigures = dict[str, Any]
_FIGURES = (*STATISTICS, *VOCABULARY)


def study_figures(
    arms: Mapping[str, Sequence[Prediction]],
    label_set: LabelSet,
    train_prevalence: Mapping[str, float],
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> StudyFigures:
    """Figures of all ``arms`` (in order) on all their data sets: ``sets``, ``arms``, ``trivial`` and ``paired``.

    Neighbouring arms are paired, the first with the last, and every arm with the constant trivial answers
    (``all_labels__<arm>``, ``best_constant__<arm>``). Raises ValueError when paired arms saw different studies, and
    when the arms were scored under different policies or on different data.
    """
    facts = set_facts(arms, label_set)
    rows = {arm: datasets(predictions) for arm, predictions in arms.items()}
    trivial: StudyFigures = {}
    samples: dict[str, dict[str, Replicates]] = {arm: {} for arm in arms}
    figures: StudyFigures = {"sets": facts, "arms": {arm: {} for arm in arms}, "trivial": trivial, "paired": {}}
    for arm, by_set in rows.items():
        for name, found in by_set.items():
            labels = evaluated_labels(found, label_set)
            samples[arm][name] = replicates(found, labels, n_resamples, seed)
            figures["arms"][arm][name] = _arm_figures(found, labels, samples[arm][name])
            if name not in trivial.get("nothing", {}):
                _, truth, mask = counts(found, labels)
                for row, scores in trivial_rows(truth, mask, labels, train_prevalence).items():
                    per_label = {label: scores[f"f1/{label}"] for label in labels}
                    trivial.setdefault(row, {})[name] = {s: scores[s] for s in STATISTICS} | {"per_label": per_label}
    names = list(arms)
    for a, b in (*pairwise(names), *([(names[0], names[-1])] if len(names) > 2 else [])):
        common = [name for name in samples[a] if name in samples[b]]
        figures["paired"][f"{a}__{b}"] = {name: _pair_figures(samples[a][name], samples[b][name]) for name in common}
        for name in common:
            labels = evaluated_labels(rows[a][name], label_set)
            if shift := vocabulary_shift([rows[a][name]], [rows[b][name]], labels, n_resamples, seed):
                figures["paired"][f"{a}__{b}"][name]["vocabulary"] = shift
    constants = {"all_labels": label_set.labels}
    constants |= {"best_constant": best_constant_answer(train_prevalence)} if train_prevalence else {}
    for row, answer in constants.items():
        for arm, by_set in rows.items():
            figures["paired"][f"{row}__{arm}"] = {
                name: _pair_figures(_constant(found, answer, label_set, n_resamples, seed), samples[arm][name])
                for name, found in by_set.items()
            }
    return figures


def reward_figures(rewards: pd.DataFrame | None, n_resamples: int, seed: int) -> StudyFigures:
    """The reward's first and last fifth and who was in them, where a run logged rewards."""
    if rewards is None:
        return {}
    found: StudyFigures = {name: asdict(i) for name, i in fifths(rewards, n_resamples, seed).items()}
    first, last = (set(rewards["patient_id"][part]) for part in ends(rewards))
    found["patients"] = {"first_fifth": len(first), "last_fifth": len(last), "both": len(first & last)}
    return {"reward": found}


def _arm_figures(rows: Sequence[Prediction], labels: Sequence[str], sample: Replicates) -> StudyFigures:
    pred, truth, mask = counts(rows, labels)
    hits, judged = confusion(pred, truth, mask).sum(axis=0), mask.sum(axis=0)  # [3, L], [L]
    found = intervals(sample)
    per_label = {
        label: {
            "f1": asdict(found[f"f1/{label}"]),
            "support": int(hits[0, i] + hits[2, i]),
            "predicted": int(hits[0, i] + hits[1, i]),
            "judged": int(judged[i]),
        }
        for i, label in enumerate(labels)
    }
    size = {"n_studies": len(rows), "n_patients": sample.n_patients}
    said = {"mean_tokens": sum(p.n_tokens for p in rows) / len(rows), "unknown_items": frequent_unknown(rows)}
    scores = {name: asdict(found[name]) for name in _FIGURES}
    return {**scores, **size, **said, "per_label": per_label}


def _constant(
    rows: Sequence[Prediction], answer: Sequence[str], label_set: LabelSet, n_resamples: int, seed: int
) -> Replicates:
    """Replicates of one answer given to every study, over the same resamples as the arms'."""
    plain = [replace(p, broken=None, named=tuple(answer), unknown=()) for p in rows]
    answers = [replace(p, predicted=tuple(x for x in answer if x in p.labelled)) for p in plain]
    return replicates(answers, evaluated_labels(rows, label_set), n_resamples, seed)


def _pair_figures(a: Replicates, b: Replicates) -> StudyFigures:
    figures: StudyFigures = {name: asdict(figure) for name, figure in paired(a, b).items() if name in _FIGURES}
    before, after = a.value["macro_f1"], b.value["macro_f1"]
    figures["macro_f1"]["relative"] = after / before - 1 if before > 0 else math.nan
    return figures
