from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from chexreason.statistics.metrics import LabelF1, averages, confusion, precision_recall_f1

LABELS = ("a", "b", "c")


def _random(seed: int, n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 3, generator=generator) < 0.3), (torch.rand(n, 3, generator=generator) < 0.3)


def _metric(pred: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None, **kwargs: object) -> dict:
    metric = LabelF1(LABELS)
    n = len(pred)
    given_mask = torch.ones_like(pred) if mask is None else mask
    failed = kwargs.get("failed", torch.zeros(n, dtype=torch.bool))
    metric.update(pred, truth, given_mask, failed, kwargs.get("study_ids", [f"s{i}" for i in range(n)]))
    return metric.compute()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 15))
@pytest.mark.slow
def test_equals_scikit_learn_with_zero_division_zero(seed: int, n: int) -> None:
    pred, truth = _random(seed, n)
    scores = _metric(pred, truth)
    for average in ("macro", "micro"):
        expected = precision_recall_fscore_support(truth.numpy(), pred.numpy(), average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert scores[f"{average}_{name}"].item() == pytest.approx(value, abs=1e-12)
    each = precision_recall_fscore_support(truth.numpy(), pred.numpy(), average=None, zero_division=0)
    assert np.allclose([scores[f"f1/{label}"] for label in LABELS], each[2])
    per_label = precision_recall_f1(confusion(pred, truth, torch.ones_like(pred)).sum(dim=0))
    assert np.allclose(torch.stack(per_label).numpy(), np.stack(each[:3]))


def test_an_absent_label_costs_the_plain_mean_and_not_the_supported_one() -> None:
    truth = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
    scores = _metric(truth, truth)
    assert scores["macro_f1"].item() == pytest.approx(2 / 3)
    assert scores["macro_f1_supported"].item() == 1
    assert scores["micro_f1"].item() == 1


def test_a_label_nobody_judges_enters_no_average() -> None:
    truth = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool()
    wrong_where_masked = truth | ~mask
    scores = _metric(wrong_where_masked, truth, mask)
    assert scores["macro_f1"].item() == 1
    assert scores["micro_f1"].item() == 1
    assert "f1/c" not in scores


def test_a_failed_answer_predicts_nothing_and_is_counted() -> None:
    truth = torch.tensor([[1, 0, 0], [1, 0, 0]]).bool()
    scores = _metric(truth, truth, failed=torch.tensor([True, False]))
    assert scores["fail_rate"].item() == 0.5
    assert scores["f1/a"].item() == pytest.approx(2 / 3)


def test_no_support_anywhere_is_undefined_not_zero() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    scores = _metric(nothing, nothing)
    assert scores["macro_f1_supported"].isnan()
    assert scores["macro_f1"].item() == 0


def test_a_repeated_study_counts_once_and_the_first_row_wins() -> None:
    pred, truth = _random(3, 7)
    ids = [f"s{i}" for i in range(7)]
    reference = _metric(pred, truth)
    rows = [*range(7), 0, 3]
    flipped = torch.cat([pred, ~pred[[0, 3]]])
    padded = _metric(flipped, truth[rows], study_ids=[ids[i] for i in rows])
    assert padded["n"].item() == 7
    assert all(torch.equal(padded[name], reference[name]) for name in reference)


@pytest.mark.parametrize("parts", [((0, 2, 4, 6), (1, 3, 5, 0)), (tuple(range(7)), ())])
def test_ranks_are_merged_by_study(parts: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Two ranks, one padded by a repeated study or one left without any, score like a single process."""
    pred, truth = _random(4, 7)
    ranks = [LabelF1(LABELS) for _ in parts]
    for metric, rows in zip(ranks, parts, strict=True):
        if rows:
            i, failed = list(rows), torch.zeros(len(rows), dtype=torch.bool)
            metric.update(pred[i], truth[i], torch.ones(len(i), 3).bool(), failed, [f"s{k}" for k in i])

    def gather(tensor: torch.Tensor, group: object = None) -> list[torch.Tensor]:
        name = "keys" if tensor.ndim == 1 else "rows"
        return [tensor, torch.cat(getattr(ranks[1], name))]

    first = LabelF1(LABELS, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    first.keys, first.rows, first._update_count = ranks[0].keys, ranks[0].rows, 1
    merged, reference = first.compute(), _metric(pred, truth)
    assert merged["n"].item() == 7
    assert all(torch.equal(merged[name], reference[name]) for name in reference)


def test_batches_add_up_and_reset_forgets() -> None:
    pred, truth = _random(5, 6)
    whole, metric, ones = _metric(pred, truth), LabelF1(LABELS), torch.ones(3, 3).bool()
    for i in (0, 3):
        ids = [f"s{k}" for k in range(i, i + 3)]
        metric.update(pred[i : i + 3], truth[i : i + 3], ones, torch.zeros(3).bool(), ids)
    assert all(torch.equal(metric.compute()[name], whole[name]) for name in whole)
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute() == {}


def test_inputs_stay_unchanged() -> None:
    pred, truth = _random(6)
    mask, failed = torch.rand(12, 3) < 0.5, torch.rand(12) < 0.5
    before = [t.clone() for t in (pred, truth, mask, failed)]
    _metric(pred, truth, mask, failed=failed)
    counts = confusion(pred, truth, mask).sum(dim=0)
    kept = counts.clone()
    averages(counts, torch.tensor([True, False, True]))
    assert all(torch.equal(a, b) for a, b in zip(before, (pred, truth, mask, failed), strict=True))
    assert torch.equal(counts, kept)


def test_a_wrong_shape_is_refused_with_both_shapes() -> None:
    pred, truth = _random(7, 4)
    with pytest.raises(ValueError, match=r"\[4, 3\] and failed \[4\]; got \[4, 3\], \[4, 3\], \[4, 2\]"):
        _metric(pred, truth, torch.ones(4, 2).bool())
