"""Precision, recall and F1 per label and averaged, from counts.

One scorer for training, validation and the final tables: the bootstrap and ``LabelF1`` call the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Counts = NDArray[np.bool_] | NDArray[np.int64] | NDArray[np.float64]  # of one study, or summed over studies


def confusion(pred: BoolArray, truth: BoolArray, mask: BoolArray) -> BoolArray:
    """True positives, false positives and false negatives of each row: bool [N, L] three times -> bool [N, 3, L]."""
    pred, truth = pred & mask, truth & mask
    return np.stack([pred & truth, pred & ~truth, truth & ~pred], axis=-2)  # [N, 3, L]


def precision_recall_f1(counts: Counts) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Precision, recall, F1 [..., L] of counts [..., 3, L]; 0 where undefined (scikit-learn's ``zero_division=0``)."""
    tp, fp, fn = np.moveaxis(counts.astype(np.float64), -2, 0)  # [..., L] each
    return ratio(tp, tp + fp, 0.0), ratio(tp, tp + fn, 0.0), ratio(2 * tp, 2 * tp + fp + fn, 0.0)


def jaccard_overlap(hits: Counts) -> FloatArray:
    """Overlap ``|both| / |either|`` of predicted and true labels [...] of ``confusion`` [..., 3, L]; 1 of empty sets.

    A study without a judged label has 1 too, whatever was answered: leave such studies out of any mean. The hard reward
    pays it for a valid answer (paper, section on rewards). It weighs studies alike, macro-F1 labels.
    """
    return ratio(hits[..., 0, :].sum(axis=-1), hits.sum(axis=(-2, -1)), 1.0)  # [...]


def averages(counts: Counts, evaluated: BoolArray) -> dict[str, FloatArray]:
    """Micro and macro averages [...] of counts [..., 3, L] over the labels that are ``evaluated`` (bool [L]).

    ``macro_*`` is the paper's plain mean over the label list, zeros included; ``macro_*_supported`` is the mean over
    labels with at least one positive, NaN when there is none. A label nobody judges enters neither.
    """
    counts = counts * evaluated
    supported = counts[..., 0, :] + counts[..., 2, :] > 0  # [..., L]
    per_label = precision_recall_f1(counts)
    pooled = precision_recall_f1(counts.sum(axis=-1, keepdims=True))
    result: dict[str, FloatArray] = {}
    for name, labelwise, micro in zip(("precision", "recall", "f1"), per_label, pooled, strict=True):
        result[f"macro_{name}"] = ratio(labelwise.sum(axis=-1), evaluated.sum())
        result[f"macro_{name}_supported"] = ratio((labelwise * supported).sum(axis=-1), supported.sum(axis=-1))
        result[f"micro_{name}"] = micro.squeeze(-1)
    return result


def label_f1(hits: Counts, judged: BoolArray, failed: BoolArray, labels: Sequence[str]) -> dict[str, float]:
    """Averages, ``fail_rate``, ``n``, ``n_judged`` and ``f1/<label>`` of every judged label over N different studies.

    ``hits`` [N, 3, L] are those of ``confusion``, ``judged`` [N, L] is their mask, ``failed`` [N] says which answers
    were unreadable. All but ``n`` is of the ``n_judged`` studies with a judged label.
    """
    rated = judged.any(axis=1)  # [N]
    counts, evaluated = hits.sum(axis=0), judged.sum(axis=0) > 0  # [3, L], [L]
    f1 = precision_recall_f1(counts)[2]
    values = {name: float(value) for name, value in averages(counts, evaluated).items()}
    by_label = {f"f1/{name}": float(f1[i]) for i, name in enumerate(labels) if evaluated[i]}
    values["fail_rate"] = float(ratio((failed & rated).sum(), rated.sum()))
    return {**values, "n": float(len(failed)), "n_judged": float(rated.sum()), **by_label}


def ratio(numerator: Counts, denominator: Counts, undefined: float = np.nan) -> FloatArray:
    """``numerator`` / ``denominator`` [...], and ``undefined`` where the denominator is not positive."""
    positive = denominator > 0
    divided: FloatArray = np.where(positive, numerator / np.where(positive, denominator, 1), undefined)
    return divided
