"""Label decisions as answers with figures, their coherent form, and what the same rule attains without the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from chexreason.labels.catalog import PARENT_OF
from chexreason.statistics.bootstrap import Replicates, as_replicates, owners, replicates, resampled_sums
from chexreason.statistics.cuts import Rule, folds, logistic
from chexreason.statistics.metrics import BoolArray, FloatArray, ratio
from chexreason.statistics.predictions import counts, on_judged
from chexreason.types import Prediction

_ALONE, _BESIDE = "No Finding", "Support Devices"
_METADATA = ("view", "age", "sex", "visit")


def decided(predictions: Sequence[Prediction], named: BoolArray, labels: Sequence[str]) -> list[Prediction]:
    """The predictions with the ``named`` [N, L] labels in place of their own answer's."""
    rows = []
    for p, row in zip(predictions, named, strict=True):
        found = tuple(label for label, on in zip(labels, row, strict=True) if on)
        judged = tuple(label for label in found if label in p.labelled)
        rows.append(replace(p, predicted=judged, named=found, unknown=(), broken=None))
    return rows


def decision_replicates(
    predictions: Sequence[Prediction], labels: Sequence[str], n_resamples: int = 2_000, seed: int = 0
) -> Replicates:
    """``replicates``, and mean ``sensitivity`` and ``specificity`` of the labels that have one on the data.

    ``calls`` are labels named a film, ``false_alarms`` those per 100 films that are wrong.
    """
    sample, rows = replicates(predictions, labels, n_resamples, seed), on_judged(predictions, labels)
    pred, truth, mask = counts(rows, labels)
    each = np.stack([pred & truth, pred & ~truth, truth, mask & ~truth], axis=1).reshape(len(rows), -1)  # [N, 4 L]
    owner = owners(rows)
    totals = np.zeros((owner.max() + 1, each.shape[1] + 1))
    np.add.at(totals, owner, np.column_stack([each, np.ones(len(rows))]))
    sums = resampled_sums(totals, n_resamples, seed)
    hits, alarms, positives, negatives = np.moveaxis(sums[:, :-1].reshape(len(sums), 4, -1), 1, 0)  # [1 + R, L] each
    found = {
        "calls": (hits + alarms).sum(axis=1) / sums[:, -1],
        "false_alarms": 100 * alarms.sum(axis=1) / sums[:, -1],
    }
    for name, share in (("sensitivity", ratio(hits, positives)), ("specificity", 1 - ratio(alarms, negatives))):
        known = ~np.isnan(share) & ~np.isnan(share[:1])
        found[name] = ratio(np.where(known, share, 0.0).sum(axis=1), known.sum(axis=1))
    more = as_replicates(found, rows, seed)
    return replace(sample, value={**sample.value, **more.value}, draws={**sample.draws, **more.draws})


def coherent(margins: FloatArray, labels: Sequence[str]) -> BoolArray:
    """The possible set nearest to each study's named labels [N, L], from margins score - cut [N, L] (named from 0 on).

    Possible is a set with the parent of each child in it (``PARENT_OF``, where both are labels), and No Finding with
    nothing else than Support Devices. Of all possible sets it is one with the least sum of margins that change sign.
    """
    named, cost, place = margins >= 0, np.abs(margins), {label: i for i, label in enumerate(labels)}
    free, off = np.zeros(len(margins)), np.where(named, cost, 0.0)  # of naming a finding no more
    result, findings = named.copy(), [i for label, i in place.items() if label not in (_ALONE, _BESIDE)]
    groups: dict[int, list[int]] = {}
    for child, above in PARENT_OF.items():
        if child in place and above in place:
            groups.setdefault(place[above], []).append(place[child])
    for parent, children in groups.items():
        add, drop = np.where(named[:, parent], 0.0, cost[:, parent]), off[:, [parent, *children]].sum(axis=1)
        result[:, parent] = kept = add <= drop
        result[:, children] &= kept[:, None]
        free += np.minimum(add, drop)
    if _ALONE in place:
        alone = place[_ALONE]
        empty = off[:, findings].sum(axis=1) + np.where(named[:, alone], 0.0, cost[:, alone])
        only = empty < free + off[:, alone]
        result[:, alone] = only
        result[np.ix_(only, findings)] = False
    return result


def permuted(patients: Sequence[str], n: int, seed: int = 0) -> Iterator[list[int]]:
    """``n`` times, for each study the row of a study of another patient, drawn anew.

    Raises ValueError with one patient, and where ``n`` is below 1.
    """
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < 2:
        raise ValueError("scores of one patient cannot be permuted between patients: add patients")
    if n < 1:
        raise ValueError(f"n_permutations={n}: skill is the mean of at least 1 permutation")
    own, rng = [np.flatnonzero(owner == k) for k in range(len(names))], np.random.default_rng(seed)
    for _ in range(n):
        order = rng.permutation(len(names))
        rows = np.zeros(len(owner), dtype=int)
        for here, there in zip(order, np.roll(order, 1), strict=True):  # a ring: nobody keeps his own
            rows[own[here]] = np.resize(rng.permutation(own[there]), len(own[here]))
        yield rows.tolist()


def image_blind(
    rule: Rule,
    tuning: tuple[FloatArray, Sequence[Prediction]],
    scored: tuple[FloatArray, Sequence[Prediction]],
    labels: Sequence[str],
    *,
    n: int = 30,
    seed: int = 0,
) -> list[BoolArray]:
    """The labels named in ``scored`` by cuts that ``rule`` fits on ``tuning``, with both permuted between patients.

    Each of ``n`` permutations gives one array [N, L]; their mean is the image-blind twin. Of scores that saw no film of
    their own (swapped films, metadata) the twin is ``rule`` as it is: one array, with ``n=0``.
    """
    (values, rows), (others, answers) = tuning, scored
    _, truth, mask = counts(rows, labels)
    patients, there = ([p.patient_id for p in of] for of in (rows, answers))
    pairs = [(values, others)]
    if n:
        orders = zip(permuted(patients, n, seed), permuted(there, n, seed + 1), strict=True)
        pairs = [(values[a], others[b]) for a, b in orders]
    return [b >= rule(a, truth, mask) for a, b in pairs]


def metadata_scores(
    tuning: Sequence[Prediction],
    facts: Sequence[Mapping[str, object]],
    other_facts: Sequence[Mapping[str, object]],
    labels: Sequence[str],
    seed: int = 0,
) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    """Log-odds of labels from ``_METADATA`` alone: of ``tuning`` [N, L] cross-fitted, and of others [M, L].

    One logistic regression a label, on a column for each value (ages by decade). Also returns what no study records.
    """
    both = [*facts, *other_facts]
    values = {
        name: [str(v // 10 if isinstance(v := fact.get(name), int) else v or "") for fact in both] for name in _METADATA
    }
    x = np.array([[1.0] + [float(v == w) for n in values for v in [values[n][i]] for w in sorted({*values[n]} - {""})]
                  for i in range(len(both))])  # fmt: skip
    known, (_, truth, mask) = x[: len(facts)], counts(tuning, labels)

    def fitted(on: BoolArray, rows: FloatArray) -> FloatArray:
        each = [logistic(known[on & m], t[on & m] * 1.0, penalty=1.0) for t, m in zip(truth.T, mask.T, strict=True)]
        return rows @ np.column_stack(each)

    own = np.zeros(truth.shape)
    for inside in folds([p.patient_id for p in tuning], 5, np.random.default_rng(seed)):
        own[inside] = fitted(~inside, known[inside])
    missing = tuple(name for name in _METADATA if not any(values[name][: len(facts)]))
    return own, fitted(np.ones(len(tuning), dtype=bool), x[len(facts) :]), missing
