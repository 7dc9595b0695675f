"""A change in macro-F1 between two arms as three parts: how often labels are named, ranking of studies, decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from chexreason.statistics.bootstrap import Replicates, as_replicates, check_paired, owners, patient_weights
from chexreason.statistics.metrics import BoolArray, FloatArray, ratio
from chexreason.statistics.predictions import counts
from chexreason.statistics.ranking import judged_scores
from chexreason.types import Prediction

CHANGE_PARTS = ("total", "operating_point", "ranking", "residue")
ScoredAnswers = tuple[FloatArray, Sequence[Prediction]]  # scores [N, L] and the answers to the same N studies


def split_change(
    before: ScoredAnswers, after: ScoredAnswers, labels: Sequence[str], n_resamples: int = 10_000, seed: int = 0
) -> Replicates:
    """The change in macro-F1 from one arm to another and its ``CHANGE_PARTS``, on the data and on each resample.

    A(b) is arm A's scores cut, label by label, so that A names as many of the studies as arm B's own answers do. With
    both orders averaged, ``operating_point`` is ((A(b) - A(a)) + (B(b) - B(a))) / 2, ``ranking`` is
    ((B(a) - A(a)) + (B(b) - A(b))) / 2, and ``residue`` is the rest: what own answers lose or gain against the arm's
    scores cut at the arm's own rates. The three add up to ``total``. No true label sets a cut, and rates are counted
    anew in each resample. Studies that tie at a cut share the remaining calls evenly, so that a rate is met exactly.
    Studies without a judged label are left out. Raises ValueError when the arms saw different studies, and on scores of
    another shape or not finite.
    """
    (before_scores, rows), (after_scores, others) = (judged_scores(*arm, labels) for arm in (before, after))
    place = {p.study_id: i for i, p in enumerate(others)}
    check_paired(*(replace(as_replicates({}, found, seed)) for found in (rows, others)))
    order = [place[p.study_id] for p in rows]
    answers = [counts(rows, labels)[0], counts([others[i] for i in order], labels)[0]]
    _, truth, mask = counts(rows, labels)
    owner = owners(rows)  # [N]
    n_patients = int(owner.max()) + 1
    scores = (before_scores, after_scores[order])
    found = []
    for drawn in (np.ones((1, n_patients)), *patient_weights(n_patients, n_resamples, seed)):
        weights = drawn.T[owner]  # [N, R]: sums over studies go along the memory
        each = [
            _label_f1(weights[on], [s[on, i] for s in scores], [a[on, i] for a in answers], truth[on, i])
            for i, on in enumerate(mask.T)
        ]
        found.append(np.mean(each, axis=0))  # [6, R]
    own_a, own_b, aa, ab, ba, bb = np.concatenate(found, axis=1)  # [1 + R] each
    point, ranking = ((ab - aa) + (bb - ba)) / 2, ((ba - aa) + (bb - ab)) / 2
    parts = {"total": own_b - own_a, "operating_point": point, "ranking": ranking}
    return as_replicates(parts | {"residue": (own_b - bb) - (own_a - aa)}, rows, seed)


def _label_f1(
    weights: FloatArray, scores: Sequence[FloatArray], answers: Sequence[BoolArray], truth: BoolArray
) -> FloatArray:
    """A label's F1 [6, R] by a's and b's own answers, then by A(a), A(b), B(a), B(b); studies weighted [N, R]."""
    positives = truth @ weights
    named = [answer @ weights for answer in answers]  # [R] each
    rows = [((answer & truth) @ weights, n) for answer, n in zip(answers, named, strict=True)]
    for values in scores:
        rows += zip(_found(weights, values, truth, named), named, strict=True)
    return np.stack([ratio(2 * found, n + positives, 0.0) for found, n in rows])


def _found(
    weights: FloatArray, scores: FloatArray, truth: BoolArray, named: Sequence[FloatArray]
) -> Iterator[FloatArray]:
    """For each of ``named`` [R], the positives [R] among so many studies of the highest scores [N]."""
    order = np.argsort(-scores, kind="stable")  # [N]
    last = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)  # [K], of each of K distinct scores
    studies = weights[order]
    positive = (studies * truth[order, None]).cumsum(axis=0)[last]  # [K, R]
    studies = studies.cumsum(axis=0)[last]
    columns = np.arange(studies.shape[1])
    for n in named:
        at = np.minimum((studies < n).sum(axis=0), len(last) - 1)  # [R], the score at which the cut is
        below = np.where(at > 0, [a[at - 1, columns] for a in (studies, positive)], 0.0)  # [2, R]
        share = ratio(n - below[0], studies[at, columns] - below[0], 0.0)
        yield below[1] + share * (positive[at, columns] - below[1])
