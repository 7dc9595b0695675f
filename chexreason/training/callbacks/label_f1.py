"""Per-label and macro F1 of every validation set, one metric object each."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from chexreason.labels.schema import LabelSet
from chexreason.statistics.metrics import BoolArray, FloatArray, confusion, label_f1
from chexreason.statistics.predictions import VOCABULARY, counts, vocabulary, vocabulary_rates
from chexreason.types import Prediction

_HEADLINE = ("macro_f1", "macro_f1_supported", "micro_f1", "fail_rate", *VOCABULARY)
_NOT_KNOWN = 255  # in a row of uint8: NaN


class LabelF1(Metric):
    """Per-label, macro and micro F1 and rates of bad answers of one data set, each study counted once.

    Distributed samplers pad the last batch with studies seen on another rank, so sums of counts would be wrong and
    no rank can tell alone. The state therefore holds one small row a study, keyed by a hash of its id, is
    concatenated over ranks, and is made unique in ``compute``; of a repeated study the first row counts.
    Use one object a data set.
    """

    full_state_update = False
    keys: list[Tensor]
    rows: list[Tensor]

    def __init__(self, labels: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels = tuple(labels)
        self.add_state("keys", default=[], dist_reduce_fx="cat")  # [N] each
        self.add_state("rows", default=[], dist_reduce_fx="cat")  # [N, 4 L + 3] each: tp, fp, fn, judged, failed, said
        self.reset()

    def reset(self) -> None:
        """Forgets all studies."""
        super().reset()
        # A rank without a study must gather tensors of the others' type and rank; an empty list would become float.
        self.keys.append(torch.zeros(0, dtype=torch.int64, device=self.device))
        self.rows.append(torch.zeros(0, 4 * len(self.labels) + 3, dtype=torch.uint8, device=self.device))

    def update(
        self,
        pred: BoolArray,
        target: BoolArray,
        mask: BoolArray,
        failed: BoolArray,
        study_ids: Sequence[str],
        said: FloatArray | None = None,
    ) -> None:
        """Adds bool [N, L] predictions, targets and masks, bool [N] failures and N study ids; raises ValueError.

        ``said`` [N, 2] is their ``vocabulary``, NaN or None where it is not known.
        """
        shape = (len(study_ids), len(self.labels))
        if not (pred.shape == target.shape == mask.shape == shape and failed.shape == shape[:1]):
            raise ValueError(
                f"LabelF1 expects pred, target, mask {list(shape)} and failed {[shape[0]]}; got "
                f"{list(pred.shape)}, {list(target.shape)}, {list(mask.shape)} and {list(failed.shape)}"
            )
        hits = confusion(pred & ~failed[:, None], target, mask).reshape(shape[0], 3 * shape[1])
        said = np.full((shape[0], len(VOCABULARY)), np.nan) if said is None else said
        known = np.nan_to_num(said, nan=_NOT_KNOWN)
        rows = np.concatenate([hits, mask, failed[:, None], known], axis=1).astype(np.uint8)  # [N, 4 L + 3]
        self.rows.append(torch.from_numpy(rows).to(self.device))
        self.keys.append(torch.tensor([_key(study) for study in study_ids], dtype=torch.int64, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """What ``label_f1`` and ``vocabulary_rates`` return; empty when nothing was added."""
        keys, rows = (dim_zero_cat(state).cpu().numpy() for state in (self.keys, self.rows))
        if not len(rows):
            return {}
        _, first = np.unique(keys, return_index=True)  # of a repeated study the row that came first
        rows = rows[first].astype(np.int64)  # [M, 4 L + 3], M unique studies
        hits, failed = rows[:, :-3].reshape(len(rows), 4, len(self.labels)), rows[:, -3] > 0
        judged = hits[:, 3] > 0
        values, said = label_f1(hits[:, :3], judged, failed, self.labels), rows[judged.any(axis=1), -2:]
        if len(said) and (said != _NOT_KNOWN).all():
            values |= vocabulary_rates(said.astype(np.float64))
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


class LabelF1Callback(L.Callback):
    """Logs ``val/<set>/macro_f1`` and the other figures of ``_HEADLINE`` and ``f1/<label>`` after each validation."""

    def __init__(self, label_set: LabelSet) -> None:
        self.label_set = label_set
        self.metrics: dict[str, LabelF1] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        names = trainer.datamodule.val_names  # type: ignore[attr-defined]
        self.metrics = {name: LabelF1(self.label_set.labels).to(pl_module.device) for name in names}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        predictions: list[Prediction] = outputs
        if not predictions:  # studies held back from training, which are no set
            return
        metric = self.metrics[list(self.metrics)[dataloader_idx]]
        failed = np.array([p.broken is not None for p in predictions], dtype=bool)
        ids, said = [p.study_id for p in predictions], vocabulary(predictions)
        metric.update(*counts(predictions, self.label_set.labels), failed, ids, said)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, metric in self.metrics.items():
            values = metric.compute()
            wanted = {k: v for k, v in values.items() if k in _HEADLINE or k.startswith("f1/")}
            figures = {f"val/{name}/{k}": v.float() for k, v in wanted.items()}
            # The metric has gathered the studies of all ranks, so they agree; Lightning still asks for sync_dist.
            pl_module.log_dict(figures, add_dataloader_idx=False, sync_dist=True)


def _key(study_id: str) -> int:
    # Python's own hash() is salted per process, so two ranks would not agree.
    return int.from_bytes(blake2b(study_id.encode(), digest_size=8).digest(), "big", signed=True)
