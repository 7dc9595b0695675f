"""The paper's sampler: penalty-based greedy selection that gives rare labels their share of every sample.

Rows of equal positive labels are interchangeable, so patterns are scored, not rows: a step costs one product of the
[P, L] pattern matrix with a vector, however large the pool. Source: Berger et al. 2025, section on data; the scoring
rule is ours, the paper prints no formula.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from chexreason.data.cover import Bools, Ints, least_shortfall, positives_by_sample
from chexreason.types import Study

PENALTY = 4.0  # what one goal's worth of excess costs against one goal's worth of deficit
NOBODY = -1  # the sample of a row, or of a patient, that is in none


@dataclass(frozen=True, eq=False)
class Draw:
    """Disjoint samples of one pool: ``sample`` [N] is the number of each row's sample, -1 where it is in none.

    ``goal`` and ``count`` are [S, L]: the positives each sample was to have of each label, as far as the pool has them,
    and those it has. ``optimal`` says that no draw comes nearer to the goals in total; it is False only where the
    exact search met its time limit.
    """

    sample: Ints
    goal: Ints
    count: Ints
    optimal: bool


def draw_samples(
    positive: Bools, patient: Sequence[str], key: Sequence[str], sizes: Mapping[str, int], min_share: float, seed: int
) -> Draw:
    """Samples of ``sizes`` rows, no patient in two of them, each label in ``min_share`` of each where the pool allows.

    ``positive`` is [N, L], ``key`` names each row uniquely. Rows without a positive label are never drawn. The goal of
    a sample is g_l = ceil(min_share x size) positives of label l, or what the pool has left of l where that is less.
    While a label is short, the scarcest (fewest positives left for those still missing) goes first, to the sample that
    lacks most of it; then the samples fill by turns. With c_l positives so far, an image with the labels X scores

        sum over l in X of max(0, g_l - c_l) / g_l  -  4 x mean over l in X of max(0, c_l - g_l) / g_l

    and the best is taken, of those with the scarcest label while there is one. Ties go to the commoner pattern, then by
    seed; of a pattern's rows, one of every patient comes before a second of any, then by seed. Where a label stays
    short of its goal, an integer programme looks for the draw with the least total shortfall.

    The result depends on the set of rows and on ``seed``, not on the rows' order; inputs are unchanged. Raises
    ValueError when the pool cannot fill the samples.
    """
    usable = np.flatnonzero(positive.any(axis=1))  # [M]
    names = np.asarray(patient, dtype=object)[usable]
    order = _drawing_order(names, np.asarray(key, dtype=object)[usable], seed)  # [M]
    marks, owner = positive[usable][order], pd.factorize(names[order])[0]  # [M, L], [M]
    wanted = list(sizes.values())
    room = f"{len(marks):,} images with a positive label, of {len(set(owner.tolist())):,} patients"
    asked = " and ".join(f"{n:,} {name}" for name, n in sizes.items())
    if sum(wanted) > len(marks):
        raise ValueError(f"{asked} are asked for; the pool has {room}: ask for less or widen it")
    goal = _goals(marks, wanted, min_share)
    drawn, optimal = _greedy(marks, owner, wanted, goal, seed), True
    if drawn is None or (positives_by_sample(marks, drawn, len(wanted)) < goal).any():
        drawn, optimal = least_shortfall(marks, owner, wanted, goal, drawn)
    if drawn is None:
        raise ValueError(f"{asked} without a patient in two of them: not possible with {room}; ask for less")
    sample = np.full(len(positive), NOBODY, dtype=np.int64)
    sample[usable[order]] = drawn
    return Draw(sample, goal, positives_by_sample(marks, drawn, len(wanted)), optimal)


def random_order(key: Sequence[str], seed: int) -> Ints:
    """Positions [N] of the keys in an order that depends on their set and ``seed`` alone."""
    digests = [hashlib.sha1(f"{seed}:{name}".encode()).digest() for name in key]
    return np.array(sorted(range(len(digests)), key=digests.__getitem__), dtype=np.int64)


def subset(studies: Sequence[Study], n: int | None, seed: int) -> list[Study]:
    """``n`` studies drawn by ``seed``, in their order; all with None or where there are no more.

    The first n would not do: vendors sort by patient, and with it by age and disease.
    """
    chosen = sorted(random_order([study.study_id for study in studies], seed)[:n])
    return [studies[i] for i in chosen]


def hold_back(studies: Sequence[Study], share: float, seed: int, setting: str = "phase.holdout") -> frozenset[str]:
    """The patients whose studies, about ``share`` of all, are held back by ``setting``; none at 0, else one or more.

    Patients are drawn by ``seed`` until their studies reach the share: a function of the studies and the seed alone.
    Who has more studies than that comes last, fewest first, and only where nobody else is held back.
    Raises ValueError on a share outside 0..1 and where it would leave no patient to train on.
    """
    if not 0 <= share < 1:
        raise ValueError(f"{setting}={share} is a share of the studies: use 0 or more, below 1")
    n_of = Counter(study.patient_id for study in studies)
    patients, held, asked = sorted(n_of), set(), round(share * len(studies), 9)
    missing = asked
    for i in sorted(random_order(patients, seed), key=lambda i: max(asked, n_of[patients[i]])):
        if missing > 0 and (n_of[patients[i]] <= asked or not held):
            held.add(patients[i])
            missing -= n_of[patients[i]]
    if held and len(held) == len(patients):
        raise ValueError(
            f"{setting}={share} of {len(studies)} studies of {len(patients)} patients leaves no other patient: "
            f"lower it, add patients, or set {setting}=0"
        )
    return frozenset(held)


def _drawing_order(patient: npt.NDArray[np.object_], key: npt.NDArray[np.object_], seed: int) -> Ints:
    """``random_order``, but one row of every patient before the second of any."""
    shuffled = random_order(key.tolist(), seed)
    turn = pd.Series(patient[shuffled]).groupby(patient[shuffled]).cumcount().to_numpy()
    return shuffled[np.argsort(turn, kind="stable")]


def _goals(marks: Bools, sizes: Sequence[int], min_share: float) -> Ints:
    """Positives [S, L] to reach; where the pool is too small for all samples, the first sample is served first."""
    left = marks.sum(axis=0)  # [L]
    goals = []
    for size in sizes:
        # 0.07 x 100 is 7, though the product of the floats is a little more
        goals.append(np.minimum(math.ceil(round(min_share * size, 9)), left))
        left = left - goals[-1]
    return np.array(goals, dtype=np.int64)


def _greedy(marks: Bools, owner: Ints, sizes: Sequence[int], goal: Ints, seed: int) -> Ints | None:
    """The sample [M] of each row by the rule of ``draw_samples``; None when a sample runs out of rows on the way."""
    patterns, rows = _patterns(marks, seed)
    weight = patterns / patterns.sum(axis=1, keepdims=True)  # [P, L]
    drawn = np.full(len(marks), NOBODY, dtype=np.int64)  # [M]
    taken_by = np.full(int(owner.max(initial=NOBODY)) + 1, NOBODY, dtype=np.int64)  # [patients]
    is_open = np.ones((len(sizes), len(rows)), dtype=bool)  # [S, P]: a row that was taken never becomes free again
    count, left = np.zeros_like(goal), marks.sum(axis=0)  # [S, L], [L]
    size, n_drawn = np.array(sizes), np.zeros(len(sizes), dtype=np.int64)  # [S], [S]
    missing = goal.copy()  # [S, L]; 0 as well where the pool has no more for this sample
    while (n_drawn < size).any():
        missing[n_drawn == size] = 0
        s, label = _turn(missing, goal, left, n_drawn, size)
        gap = (goal[s] - count[s]) / np.maximum(goal[s], 1)  # [L]
        # rounded, so that equal scores are equal on every machine's linear algebra
        score = np.round(patterns @ np.maximum(gap, 0) - PENALTY * (weight @ np.maximum(-gap, 0)), 9)  # [P]
        wanted = is_open[s] if label is None else is_open[s] & (patterns[:, label] > 0)  # [P]
        if not wanted.any() and label is None:
            return None
        if not wanted.any():
            missing[s, label] = 0
            continue
        best = np.where(wanted, score, -np.inf).argmax()
        free = (drawn[rows[best]] == NOBODY) & np.isin(taken_by[owner[rows[best]]], (NOBODY, s))
        if not free.any():
            is_open[s, best] = False
            continue
        row = rows[best][free.argmax()]
        drawn[row], taken_by[owner[row]] = s, s
        count[s] += marks[row]
        left -= marks[row]
        missing[s] = np.maximum(0, missing[s] - marks[row])
        n_drawn[s] += 1
    return drawn


def _turn(missing: Ints, goal: Ints, left: Ints, n_drawn: Ints, size: Ints) -> tuple[int, int | None]:
    """The sample that draws next and its label: the scarcest that is missing, None when no label is missing."""
    lacking = missing.sum(axis=0)  # [L]
    if not lacking.any():
        return int(np.where(n_drawn < size, (n_drawn + 1) / np.maximum(size, 1), np.inf).argmin()), None
    label = int(np.where(lacking > 0, left / np.maximum(lacking, 1), np.inf).argmin())
    return int((missing[:, label] / np.maximum(goal[:, label], 1)).argmax()), label


def _patterns(marks: Bools, seed: int) -> tuple[npt.NDArray[np.float64], list[Ints]]:
    """Distinct label patterns [P, L], the commonest first and ties by seed, and the rows of each in drawing order."""
    code, of_row, n_rows = np.unique(marks, axis=0, return_inverse=True, return_counts=True)
    of_row = of_row.reshape(-1)
    rows = np.split(np.argsort(of_row, kind="stable"), np.cumsum(n_rows)[:-1])
    rank = np.lexsort((np.random.default_rng(seed).permutation(len(code)), -n_rows))
    return code[rank].astype(np.float64), [rows[p] for p in rank]
