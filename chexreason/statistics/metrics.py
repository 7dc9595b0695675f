"""Precision, recall and F1 per label and averaged, from counts; and the metric object that gathers the counts.

One scorer for training, validation and the final tables: the bootstrap and ``LabelF1`` call the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def confusion(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """True positives, false positives and false negatives of each row: bool [N, L] three times -> bool [N, 3, L]."""
    pred, truth = pred & mask, truth & mask
    return torch.stack([pred & truth, pred & ~truth, truth & ~pred], dim=-2)  # [N, 3, L]


def precision_recall_f1(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall, F1 [..., L] of counts [..., 3, L]; 0 where undefined (scikit-learn's ``zero_division=0``)."""
    tp, fp, fn = counts.double().unbind(dim=-2)  # [..., L] each
    return _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn)


def jaccard(hits: Tensor) -> Tensor:
    """Overlap |both| / |either| of predicted and true labels [...] of ``confusion`` [..., 3, L]; 1 where both are none.

    What the hard reward pays for a valid answer (paper, section on rewards); it weighs studies alike, macro-F1 labels.
    """
    both, either = hits[..., 0, :].sum(dim=-1).double(), hits.sum(dim=(-2, -1))  # [...]
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def averages(counts: Tensor, evaluated: Tensor) -> dict[str, Tensor]:
    """Micro and macro averages [...] of counts [..., 3, L] over the labels that are ``evaluated`` (bool [L]).

    ``macro_*`` is the paper's plain mean over the label list, zeros included; ``macro_*_supported`` is the mean over
    labels with at least one positive, NaN when there is none. A label nobody judges enters neither.
    """
    counts = counts * evaluated
    supported = counts[..., 0, :] + counts[..., 2, :] > 0  # [..., L]
    per_label = precision_recall_f1(counts)
    pooled = precision_recall_f1(counts.sum(dim=-1, keepdim=True))
    result: dict[str, Tensor] = {}
    for name, labelwise, micro in zip(("precision", "recall", "f1"), per_label, pooled, strict=True):
        result[f"macro_{name}"] = labelwise.sum(dim=-1) / evaluated.sum()
        result[f"macro_{name}_supported"] = (labelwise * supported).sum(dim=-1) / supported.sum(dim=-1)
        result[f"micro_{name}"] = micro.squeeze(-1)
    return result


class LabelF1(Metric):
    """Per-label, macro and micro F1 and fail rate of one data set, each study counted once.

    Distributed samplers pad the last batch with studies seen on another rank, so sums of counts would be wrong and
    no rank can tell alone. The state therefore holds one small row a study, keyed by a hash of its id, is
    concatenated over ranks, and is made unique in ``compute``; of a repeated study the first row counts.
    Use one object a data set.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    keys: list[Tensor]
    rows: list[Tensor]

    def __init__(self, labels: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels = tuple(labels)
        self.add_state("keys", default=[], dist_reduce_fx="cat")  # [N] each
        self.add_state("rows", default=[], dist_reduce_fx="cat")  # [N, 4 L + 1] each: tp, fp, fn, judged, failed
        self.reset()

    def reset(self) -> None:
        """Forgets all studies."""
        super().reset()
        # A rank without a study must gather tensors of the others' type and rank; an empty list would become float.
        self.keys.append(torch.zeros(0, dtype=torch.int64, device=self.device))
        self.rows.append(torch.zeros(0, 4 * len(self.labels) + 1, dtype=torch.uint8, device=self.device))

    def update(self, pred: Tensor, target: Tensor, mask: Tensor, failed: Tensor, study_ids: Sequence[str]) -> None:
        """Adds bool [N, L] predictions, targets and masks, bool [N] failures and N study ids; raises ValueError."""
        shape = (len(study_ids), len(self.labels))
        if not (pred.shape == target.shape == mask.shape == shape and failed.shape == shape[:1]):
            raise ValueError(
                f"LabelF1 expects pred, target, mask {list(shape)} and failed {[shape[0]]}; got "
                f"{list(pred.shape)}, {list(target.shape)}, {list(mask.shape)} and {list(failed.shape)}"
            )
        pred, target, mask, failed = pred.bool(), target.bool(), mask.bool(), failed.bool()
        hits = confusion(pred & ~failed[:, None], target, mask).flatten(1)  # [N, 3 L]
        self.rows.append(torch.cat([hits, mask, failed[:, None]], dim=1).to(torch.uint8))
        self.keys.append(torch.tensor([_key(study) for study in study_ids], dtype=torch.int64, device=pred.device))

    def compute(self) -> dict[str, Tensor]:
        """Averages, ``fail_rate``, ``n`` and ``f1/<label>`` of every judged label; empty when nothing was added."""
        keys, rows = dim_zero_cat(self.keys), dim_zero_cat(self.rows)
        if not len(rows):
            return {}
        rows = rows[_first_of_each(keys)].long()  # [M, 4 L + 1], M unique studies
        totals = rows.sum(dim=0)  # [4 L + 1]
        hits, failed = totals[:-1].reshape(4, len(self.labels)), totals[-1]
        counts, evaluated = hits[:3], hits[3] > 0  # [3, L], [L]
        f1 = precision_recall_f1(counts)[2]
        by_label = {f"f1/{name}": f1[i] for i, name in enumerate(self.labels) if evaluated[i]}
        n = torch.tensor(len(rows), dtype=torch.float64, device=rows.device)
        return {**averages(counts, evaluated), "fail_rate": failed / n, "n": n, **by_label}


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1), 0.0)


def _key(study_id: str) -> int:
    # Python's own hash() is salted per process, so two ranks would not agree.
    return int.from_bytes(blake2b(study_id.encode(), digest_size=8).digest(), "big", signed=True)


def _first_of_each(keys: Tensor) -> Tensor:
    """Positions [M] of the first occurrence of each distinct key [N]."""
    unique, group = torch.unique(keys, return_inverse=True)
    order = torch.arange(len(keys), device=keys.device)
    return torch.full_like(unique, len(keys)).scatter_reduce(0, group, order, "amin")
