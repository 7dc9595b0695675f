"""The metric of validation: ``statistics.metrics`` with each study counted once over batches and ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chexreason.statistics.metrics import confusion, label_f1
from chexreason.training.callbacks.label_f1 import LabelF1

LABELS = ("a", "b", "c")


def _random(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).random((2, n, 3)) < 0.3


def _add(metric: LabelF1, pred: np.ndarray, truth: np.ndarray, ids: list[int]) -> LabelF1:
    metric.update(pred, truth, np.ones_like(pred), np.zeros(len(pred), dtype=bool), [f"s{i}" for i in ids])
    return metric


def _expected(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    mask = np.ones_like(pred)
    return label_f1(confusion(pred, truth, mask), mask, np.zeros(len(pred), dtype=bool), LABELS)


def _values(metric: LabelF1) -> dict[str, float]:
    found = metric.compute()
    assert all(value.dtype == torch.float64 for value in found.values())
    return {name: value.item() for name, value in found.items()}


def test_a_failed_answer_predicts_nothing_and_is_counted() -> None:
    metric, truth = LabelF1(LABELS), np.array([[1, 0, 0], [1, 0, 0]], dtype=bool)
    metric.update(truth, truth, np.ones_like(truth), np.array([True, False]), ["s0", "s1"])
    found = _values(metric)
    assert found["fail_rate"] == 0.5
    assert found["f1/a"] == pytest.approx(2 / 3)


def test_a_repeated_study_counts_once_and_the_first_row_wins() -> None:
    pred, truth = _random(3, 7)
    rows = [*range(7), 0, 3]
    padded = _add(LabelF1(LABELS), np.concatenate([pred, ~pred[[0, 3]]]), truth[rows], rows)
    assert _values(padded) == _expected(pred, truth)


@pytest.mark.parametrize("parts", [((0, 2, 4, 6), (1, 3, 5, 0)), (tuple(range(7)), ())])
def test_ranks_are_merged_by_study(parts: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Two ranks, one padded by a repeated study or one left without any, score like a single process."""
    pred, truth = _random(4, 7)
    ranks = [LabelF1(LABELS) for _ in parts]
    for metric, rows in zip(ranks, parts, strict=True):
        if rows:
            _add(metric, pred[list(rows)], truth[list(rows)], list(rows))

    def gather(tensor: torch.Tensor, group: object = None) -> list[torch.Tensor]:
        name = "keys" if tensor.ndim == 1 else "rows"
        return [tensor, torch.cat(getattr(ranks[1], name))]

    first = LabelF1(LABELS, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    first.keys, first.rows, first._update_count = ranks[0].keys, ranks[0].rows, 1
    assert _values(first) == _expected(pred, truth)


def test_batches_add_up_and_reset_forgets() -> None:
    pred, truth = _random(5, 6)
    metric = LabelF1(LABELS)
    for i in (0, 3):
        _add(metric, pred[i : i + 3], truth[i : i + 3], list(range(i, i + 3)))
    assert _values(metric) == _expected(pred, truth)
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute() == {}


def test_a_wrong_shape_is_refused_with_both_shapes() -> None:
    pred, truth = _random(7, 4)
    with pytest.raises(ValueError, match=r"\[4, 3\] and failed \[4\]; got \[4, 3\], \[4, 3\], \[4, 2\]"):
        LabelF1(LABELS).update(pred, truth, np.ones((4, 2), dtype=bool), np.zeros(4, dtype=bool), list("wxyz"))
