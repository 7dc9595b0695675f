"""Every figure of a study, as one plain dictionary: what report.json holds and report.html shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from chexreason.labels.schema import LabelSet
from chexreason.reports.history import Rewards, fifths
from chexreason.statistics.bootstrap import STATISTICS, Interval, Replicates, intervals, paired, replicates
from chexreason.statistics.comparable import set_facts
from chexreason.statistics.metrics import confusion
from chexreason.statistics.predictions import counts, datasets, evaluated_labels
from chexreason.statistics.trivial import best_constant_answer, trivial_rows
from chexreason.types import Prediction

Figures = dict[str, Any]


def study_figures(
    arms: Mapping[str, Sequence[Prediction]],
    label_set: LabelSet,
    *,
    train_prevalence: Mapping[str, float],
    pairs: Sequence[tuple[str, str]] | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Figures:
    """Figures of all ``arms`` (in order) on all their data sets: ``sets``, ``arms``, ``trivial`` and ``paired``.

    ``pairs`` defaults to neighbours and (first, last); every arm is also paired with the constant trivial answers
    (``all_labels__<arm>``, ``best_constant__<arm>``). Raises ValueError on an unknown arm in a pair, when paired
    arms saw different studies, and when the arms were scored under different policies or on different data.
    """
    figures: Figures = {"sets": set_facts(arms, label_set), "arms": {}, "trivial": {}, "paired": {}}
    samples: dict[str, dict[str, Replicates]] = {}
    for arm, predictions in arms.items():
        samples[arm], figures["arms"][arm] = {}, {}
        for name, rows in datasets(predictions).items():
            labels = evaluated_labels(rows, label_set)
            samples[arm][name] = replicates(rows, labels, n_resamples, seed)
            figures["arms"][arm][name] = _arm_figures(rows, labels, samples[arm][name])
            if name not in figures["trivial"].get("nothing", {}):
                _add_trivial(figures["trivial"], name, rows, labels, train_prevalence)
    for a, b in default_pairs(list(arms)) if pairs is None else pairs:
        if a not in arms or b not in arms:
            raise ValueError(f"cannot pair '{a}' with '{b}': this study has the arms {', '.join(arms)}")
        common = [name for name in samples[a] if name in samples[b]]
        figures["paired"][f"{a}__{b}"] = {name: _pair_figures(samples[a][name], samples[b][name]) for name in common}
    constants = {"all_labels": label_set.labels} | (
        {"best_constant": best_constant_answer(train_prevalence)} if train_prevalence else {}
    )
    for row, answer in constants.items():
        for arm, predictions in arms.items():
            figures["paired"][f"{row}__{arm}"] = {
                name: _pair_figures(_constant(rows, answer, label_set, n_resamples, seed), samples[arm][name])
                for name, rows in datasets(predictions).items()
            }
    return figures


def default_pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Neighbouring arms, and the first with the last."""
    ends = [(arms[0], arms[-1])] if len(arms) > 2 else []
    return [*pairwise(arms), *ends]


def reward_figures(rewards: Rewards | None, n_resamples: int, seed: int) -> Figures:
    """The reward's first and last fifth and who was in them, where a run logged rewards."""
    if rewards is None:
        return {}
    found: Figures = {name: _plain(i) for name, i in fifths(rewards, n_resamples, seed).items()}
    first, last = (set(rewards.patients[part].tolist()) for part in rewards.ends())
    found["patients"] = {"first_fifth": len(first), "last_fifth": len(last), "both": len(first & last)}
    return {"reward": found}


def finite(node: Any) -> Any:
    """A copy in which every NaN and infinity is None: strict JSON has neither."""
    if isinstance(node, Mapping):
        return {str(key): finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def _arm_figures(rows: Sequence[Prediction], labels: Sequence[str], sample: Replicates) -> Figures:
    found = intervals(sample)
    pred, truth, mask = counts(rows, labels)
    hits = confusion(pred, truth, mask).sum(axis=0)  # [3, L]
    per_label = {
        label: {
            "f1": _plain(found[f"f1/{label}"]),
            "support": int(hits[0, i] + hits[2, i]),
            "predicted": int(hits[0, i] + hits[1, i]),
            "judged": int(mask[:, i].sum()),
        }
        for i, label in enumerate(labels)
    }
    size = {"n_studies": len(rows), "n_patients": sample.n_patients}
    tokens = {"mean_tokens": sum(p.n_tokens for p in rows) / len(rows)}
    return {**{name: _plain(found[name]) for name in STATISTICS}, **size, **tokens, "per_label": per_label}


def _constant(
    rows: Sequence[Prediction], answer: Sequence[str], label_set: LabelSet, n_resamples: int, seed: int
) -> Replicates:
    """Replicates of one answer given to every study, over the same resamples as the arms'."""
    answers = [replace(p, predicted=tuple(x for x in answer if x in p.labelled), broken=None) for p in rows]
    return replicates(answers, evaluated_labels(rows, label_set), n_resamples, seed)


def _add_trivial(
    trivial: Figures, name: str, rows: Sequence[Prediction], labels: Sequence[str], prevalence: Mapping[str, float]
) -> None:
    _, truth, mask = counts(rows, labels)
    for row, scores in trivial_rows(truth, mask, labels, prevalence).items():
        per_label = {label: scores[f"f1/{label}"] for label in labels}
        trivial.setdefault(row, {})[name] = {s: scores[s] for s in STATISTICS} | {"per_label": per_label}


def _pair_figures(a: Replicates, b: Replicates) -> Figures:
    differences = paired(a, b)
    figures: Figures = {name: _plain(differences[name]) for name in STATISTICS}
    before, after = a.value["macro_f1"], b.value["macro_f1"]
    figures["macro_f1"]["relative"] = after / before - 1 if before > 0 else math.nan
    return figures


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
