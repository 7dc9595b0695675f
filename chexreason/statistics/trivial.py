"""Scores of answers that need no image, on the same studies: the floor for every other figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chexreason.statistics.bootstrap import statistics
from chexreason.statistics.metrics import BoolArray, confusion, jaccard_overlap

TRIVIAL_ANSWERS = {
    "nothing": "predicts no label",
    "all_labels": "answers every label for every image",
    "best_constant": "the one label set with the best micro-F1 on the training labels",
    "prior": "draws each label with its training prevalence (mean of many draws)",
}


def best_constant_answer(prevalence: Mapping[str, float]) -> tuple[str, ...]:
    """The constant answer with the highest micro-F1 on the training labels, most prevalent label first.

    For a constant set S micro-F1 is 2 sum_S(p) / (|S| + sum_all(p)) when every label is judged equally often, so of
    all sets of one size the most prevalent labels win and it is enough to compare prefixes. (For macro-F1 the best
    constant is always ``all_labels``: each label adds 2p / (1 + p) >= 0.)
    """
    order = sorted(prevalence, key=lambda label: (-prevalence[label], label))
    total, running = sum(prevalence.values()), 0.0
    best, best_f1 = 0, 0.0
    for size, label in enumerate(order, start=1):
        running += prevalence[label]
        f1 = 2 * running / (size + total)
        if f1 > best_f1:
            best, best_f1 = size, f1
    return tuple(order[:best])


def trivial_rows(
    truth: BoolArray,
    mask: BoolArray,
    labels: Sequence[str],
    prevalence: Mapping[str, float],
    n_draws: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Scores of the trivial answers on truth and mask, bool [N, L]: the names of ``replicates`` a row.

    Studies without a judged label are left out. ``prevalence`` comes from the training labels, never from the set that
    is scored; a label it lacks is never answered by ``best_constant`` and ``prior``, and without any prevalence those
    two rows are left out.
    """
    rated = mask.any(axis=1)  # [N]
    truth, mask = truth[rated], mask[rated]
    constants: dict[str, Sequence[str]] = {"nothing": (), "all_labels": labels}
    if prevalence:
        constants["best_constant"] = best_constant_answer(prevalence)
    rows = {}
    for name, answer in constants.items():
        chosen = np.array([label in answer for label in labels], dtype=bool)
        rows[name] = _score(np.broadcast_to(chosen, truth.shape)[None], truth, mask, labels)
    if prevalence:
        p = np.array([prevalence.get(label, 0.0) for label in labels], dtype=np.float32)
        # The draws of torch.rand: MT19937 as torch seeds it, 24 bits of each raw number.
        bits = np.random.RandomState(seed % 2**32).randint(2**24, size=(n_draws, *truth.shape), dtype=np.uint32)
        noise = bits.astype(np.float32) / np.float32(2**24)  # in [0, 1)
        rows["prior"] = _score(noise < p, truth, mask, labels)
    return rows


def _score(pred: BoolArray, truth: BoolArray, mask: BoolArray, labels: Sequence[str]) -> dict[str, float]:
    """Mean score over draws of ``pred`` [D, N, L]."""
    each = confusion(pred, truth, mask)  # [D, N, 3, L]
    studies, failed = np.full(len(pred), len(truth)), np.zeros(len(pred))
    hits = each.sum(axis=1).reshape(len(pred), -1)  # [D, 3 L]
    sums = np.column_stack([hits, studies, jaccard_overlap(each).sum(axis=1), failed])  # [D, 3 L + 3]
    return {name: float(value.mean()) for name, value in statistics(sums, labels).items()}
