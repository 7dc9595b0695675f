"""Every figure of a study, as one plain dictionary: what report.json holds and report.html shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise, product
from statistics import fmean
from typing import Any

import pandas as pd

from chexreason.labels.schema import LabelSet
from chexreason.reports.history import ends, fifths
from chexreason.statistics.bootstrap import STATISTICS, Replicates, intervals, over_labels, paired, replicates
from chexreason.statistics.comparable import common_labels, set_facts
from chexreason.statistics.metrics import confusion
from chexreason.statistics.predictions import VOCABULARY, counts, datasets, evaluated_labels, on_judged
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

    Under ``common`` is macro-F1 again, over the ``labels`` that all sets judge: what may be compared between sets.
    Neighbouring arms are paired, the first with the last, and every arm with the constant trivial answers
    (``all_labels__<arm>``, ``best_constant__<arm>``). Raises ValueError when paired arms saw different studies, and
    when the arms were scored under different policies or on different data.
    """
    rows = {arm: datasets(predictions) for arm, predictions in arms.items()}
    constants = {"all_labels": label_set.labels}
    constants |= {"best_constant": best_constant_answer(train_prevalence)} if train_prevalence else {}
    samples: dict[str, dict[str, Replicates]] = {row: {} for row in (*arms, *constants)}
    trivial: StudyFigures = {}
    figures: StudyFigures = {"sets": set_facts(arms, label_set), "arms": {arm: {} for arm in arms}, "trivial": trivial}
    for arm, by_set in rows.items():
        for name, found in by_set.items():
            labels = evaluated_labels(found, label_set)
            samples[arm][name] = replicates(found, labels, n_resamples, seed)
            figures["arms"][arm][name] = _arm_figures(found, labels, samples[arm][name])
            if name in samples["all_labels"]:
                continue
            for row, answer in constants.items():
                samples[row][name] = replicates(_constant(found, answer), labels, n_resamples, seed)
            _, truth, mask = counts(found, labels)
            for row, scores in trivial_rows(truth, mask, labels, train_prevalence).items():
                per_label = {label: scores[f"f1/{label}"] for label in labels}
                trivial.setdefault(row, {})[name] = {s: scores[s] for s in STATISTICS} | {"per_label": per_label}
    names = list(arms)
    steps = [*pairwise(names), *([(names[0], names[-1])] if len(names) > 2 else [])]
    pairs = [*steps, *product(constants, names)]
    figures["paired"] = _paired(samples, pairs)
    figures["common"] = _common_figures(figures, samples, pairs)
    for a, b in steps:
        for name, own in figures["paired"][f"{a}__{b}"].items():
            labels = figures["common"]["labels"] or evaluated_labels(rows[a][name], label_set)
            if shift := vocabulary_shift([rows[a][name]], [rows[b][name]], labels, n_resamples, seed):
                own["vocabulary"] = shift
    return figures


def _paired(samples: Mapping[str, Mapping[str, Replicates]], pairs: Sequence[tuple[str, str]]) -> StudyFigures:
    """The difference b - a of each pair (a, b), under ``a__b``, on each data set that both have."""
    return {
        f"{a}__{b}": {
            name: _pair_figures(samples[a][name], own) for name, own in samples[b].items() if name in samples[a]
        }
        for a, b in pairs
    }


def _common_figures(
    figures: Mapping[str, Any], samples: Mapping[str, Mapping[str, Replicates]], pairs: Sequence[tuple[str, str]]
) -> StudyFigures:
    """Macro-F1 of arms, trivial rows and steps over the ``labels`` that all sets judge; no figure without a label."""
    labels = common_labels(figures["sets"])
    if not labels:
        return {"labels": labels, "arms": {}, "trivial": {}, "paired": {}}
    over = {row: {name: over_labels(s, labels) for name, s in by_set.items()} for row, by_set in samples.items()}
    return {
        "labels": labels,
        "arms": {
            arm: {name: {"macro_f1": {"value": s.value["macro_f1"]}} for name, s in over[arm].items()}
            for arm in figures["arms"]
        },
        "trivial": {
            row: {name: {"macro_f1": fmean(s["per_label"][label] for label in labels)} for name, s in by_set.items()}
            for row, by_set in figures["trivial"].items()
        },
        "paired": _paired(over, pairs),
    }


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
    judged = on_judged(rows, labels)
    size = {"n_studies": len(rows), "n_judged": len(judged), "n_patients": sample.n_patients}
    said = {"mean_tokens": fmean(p.n_tokens for p in judged), "unknown_items": frequent_unknown(judged)}
    scores = {name: asdict(found[name]) for name in _FIGURES}
    return {**scores, **size, **said, "per_label": per_label}


def _constant(rows: Sequence[Prediction], answer: tuple[str, ...]) -> list[Prediction]:
    """One answer given to every study."""
    return [
        replace(p, predicted=tuple(x for x in answer if x in p.labelled), named=answer, unknown=(), broken=None)
        for p in rows
    ]


def _pair_figures(a: Replicates, b: Replicates) -> StudyFigures:
    figures: StudyFigures = {name: asdict(figure) for name, figure in paired(a, b).items() if name in _FIGURES}
    before, after = a.value["macro_f1"], b.value["macro_f1"]
    figures["macro_f1"]["relative"] = after / before - 1 if before > 0 else math.nan
    return figures
