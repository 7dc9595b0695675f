"""Transfer as a number: the change of every pair of arms at home and away, with intervals and p-values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import numpy as np

from chexreason.labels.schema import LabelSet
from chexreason.statistics.bootstrap import (
    Interval,
    Replicates,
    difference,
    intervals,
    over_labels,
    patient_totals,
    percentile_interval,
    replicates,
    seed_mean,
    statistics,
)
from chexreason.statistics.comparable import common_labels, set_facts
from chexreason.statistics.metrics import FloatArray, ratio
from chexreason.statistics.permutation import holm, paired_permutation
from chexreason.statistics.predictions import counts, datasets
from chexreason.types import Prediction

_SCORE = "macro_f1"
_EQUAL = 1e-9  # scores that differ by rounding alone
Arms = Mapping[str, Sequence[Sequence[Prediction]]]  # of each arm, the predictions of each seed


@dataclass(frozen=True)
class Change:
    """The change on one data set in a step from one arm to another.

    ``difference`` is after - before; ``retained`` is after / before, 1 where nothing is lost. ``p`` is of the paired
    permutation test, ``p_holm`` the same adjusted for the number of tests in the report; both are NaN where the arms
    have different numbers of seeds, whose answers cannot be swapped.
    """

    difference: Interval
    retained: Interval
    p: float
    p_holm: float = math.nan


@dataclass(frozen=True)
class Transfer:
    """A step between two arms at home and on one other data set; ``gap`` is the change away minus that at home."""

    before: str
    after: str
    away_set: str
    home: Change
    away: Change
    gap: Interval


@dataclass(frozen=True)
class TransferReport:
    """``steps`` between all pairs of arms, ``scores`` of each arm by data set, ``n_tests`` that Holm accounts for.

    Steps are over the common ``labels``, those that all sets judge: there are none without such a label. Scores are
    over each set's own labels. ``below`` are the sets where answering all labels beats an arm over either.
    """

    steps: tuple[Transfer, ...]
    scores: Mapping[str, Mapping[str, Interval]]
    n_tests: int
    labels: tuple[str, ...]
    below: Mapping[str, tuple[str, ...]]


def transfer_report(
    arms: Arms,
    label_set: LabelSet,
    home: str,
    away: Sequence[str],
    *,
    n_resamples: int = 10_000,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> TransferReport:
    """The change in macro-F1 of every pair of ``arms`` (earlier before later) on ``home`` and on each of ``away``.

    Changes are over the labels that all of these sets judge. Raises ValueError when an arm lacks one of the sets, and
    when arms saw other studies, policies or data.
    """
    facts = set_facts({f"{arm}/{k}": seeds[k] for arm, seeds in arms.items() for k in range(len(seeds))}, label_set)
    rows = {arm: [datasets(predictions) for predictions in seeds] for arm, seeds in arms.items()}
    sets = [home, *away]
    _check_sets(rows, sets)
    labels = common_labels({name: facts[name] for name in sets})
    scores: dict[str, dict[str, Interval]] = {arm: {} for arm in arms}
    below: dict[str, tuple[str, ...]] = dict.fromkeys(arms, ())
    moved: dict[tuple[str, str, str], Replicates] = {}
    changes: dict[tuple[str, str, str], Change] = {}
    for name in sets:
        own = facts[name]["labels"]
        samples = {
            arm: seed_mean([replicates(by_set[name], own, n_resamples, seed) for by_set in seeds])
            for arm, seeds in rows.items()
        }
        _, truth, mask = counts(next(iter(rows.values()))[0][name], own)
        floors = dict(zip(own, ratio(2 * truth.sum(0), truth.sum(0) + mask.sum(0)), strict=True))  # of all labels
        for arm, sample in samples.items():
            scores[arm][name] = intervals(sample)[_SCORE]
            gaps = [
                over_labels(sample, x).value[_SCORE] - fmean(floors[label] for label in x) for x in (own, labels) if x
            ]
            below[arm] += (name,) * (min(gaps) < -_EQUAL)
        if not labels:
            continue
        over = {arm: over_labels(sample, labels) for arm, sample in samples.items()}
        totals = {
            arm: np.stack([patient_totals(by_set[name], labels) for by_set in seeds], axis=1)  # [P, S, 3 L + 3]
            for arm, seeds in rows.items()
        }
        for a, b in combinations(arms, 2):
            moved[a, b, name] = difference(over[a], over[b])
            p = _p_value(totals[a], totals[b], labels, n_permutations, seed)
            changes[a, b, name] = Change(moved[a, b, name].percentiles(_SCORE), _retained(over[a], over[b]), p)
    adjusted = holm([change.p for change in changes.values()])
    changes = {key: replace(change, p_holm=p) for (key, change), p in zip(changes.items(), adjusted, strict=True)}
    steps = tuple(
        Transfer(a, b, name, changes[a, b, home], changes[a, b, name], _gap(moved[a, b, home], moved[a, b, name]))
        for a, b in combinations(arms, 2)
        for name in (away if labels else ())
    )
    return TransferReport(steps, scores, sum(p == p for p in adjusted), tuple(labels), below)


def _check_sets(rows: Mapping[str, Sequence[Mapping[str, object]]], sets: Sequence[str]) -> None:
    lacking = [f"{arm} lacks {name}" for arm, own in rows.items() for name in sets if any(name not in s for s in own)]
    if lacking:
        raise ValueError(
            f"transfer needs every arm on {', '.join(sets)}: {'; '.join(lacking)}; evaluate these arms on all sets, "
            "or leave them out with arms=[...]"
        )


def _p_value(a: FloatArray, b: FloatArray, labels: Sequence[str], n_permutations: int, seed: int) -> float:
    if a.shape != b.shape:
        return math.nan
    n_patients, n_seeds, width = a.shape

    def over_seeds(sums: FloatArray) -> FloatArray:
        each = statistics(sums.reshape(-1, width), labels)[_SCORE]  # [R S]
        mean: FloatArray = each.reshape(-1, n_seeds).mean(axis=1)  # [R]
        return mean

    flat = (n_patients, n_seeds * width)
    return paired_permutation(a.reshape(flat), b.reshape(flat), over_seeds, n_permutations, seed)


def _retained(a: Replicates, b: Replicates) -> Interval:
    before, after = a.value[_SCORE], b.value[_SCORE]
    value = after / before if before > 0 else math.nan
    draws = ratio(b.draws[_SCORE], a.draws[_SCORE])  # [R]
    return percentile_interval(value, draws, a.n_patients)


def _gap(home: Replicates, away: Replicates) -> Interval:
    """Change away minus change at home; draws of one set must not follow the other's."""
    # One seed draws the same row numbers for both sets: shifted by one, the draws are independent.
    draws = np.roll(away.draws[_SCORE], 1) - home.draws[_SCORE]
    return percentile_interval(away.value[_SCORE] - home.value[_SCORE], draws, min(home.n_patients, away.n_patients))
