"""The data module: training samples in a resumable order, one validation loader a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from chexreason.data.batches import Batch, Collate, EpochOrder, SampleDataset
from chexreason.signals import leave_to_parent
from chexreason.types import Sample


class StudyData(L.LightningDataModule):
    """Loaders over samples that are already resolved (labels, prompt, answer).

    ``collate`` makes a batch of samples. ``train`` are the training samples; ``val`` maps a data set's name to its
    samples, in the order of the validation loaders; behind them comes one of ``held``, the studies held back from
    training, whose answers give the validation loss. ``batch_size`` samples make a batch of one rank and ``accumulate``
    batches an optimiser update. The position within an epoch is part of a checkpoint, so a
    resumed run sees the samples it had not seen. Raises ValueError where a rank has fewer samples than one batch, on a
    training sample without a judged label, and on a checkpoint of another number of ranks.
    """

    def __init__(
        self,
        collate: Collate,
        train: Sequence[Sample],
        val: Mapping[str, Sequence[Sample]],
        *,
        batch_size: int,
        eval_batch_size: int,
        accumulate: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        drop_last: bool = False,
        held: Sequence[Sample] = (),
    ) -> None:
        super().__init__()
        if len(train) < batch_size:
            raise ValueError(f"{len(train)} training samples are fewer than phase.batch_size={batch_size}")
        if unjudged := [sample.study.study_id for sample in train if not any(sample.study.mask)]:
            raise ValueError(
                f"{len(unjudged)} of {len(train)} training studies have no judged label, e.g. {unjudged[0]}: no answer "
                "to them is right or wrong; leave them out"
            )
        self.val_names = tuple(val)
        self.train_samples, self.val_samples = list(train), {name: list(samples) for name, samples in val.items()}
        self.held = {"held back by phase.holdout": list(held)} if held else {}
        self._collate = collate
        self.batch_size, self.eval_batch_size, self.accumulate = batch_size, eval_batch_size, accumulate
        self.num_workers, self.seed, self.drop_last = num_workers, seed, drop_last
        self._order: EpochOrder | None = None
        self._resume: tuple[int | None, int] = 0, 0  # epoch, and batches of it that are behind us

    def train_dataloader(self) -> DataLoader[Batch]:
        rank, world = self._rank()
        if len(self.train_samples) // world < self.batch_size:
            raise ValueError(
                f"{len(self.train_samples)} training samples for {world} ranks are fewer than phase.batch_size="
                f"{self.batch_size} each: lower it, or trainer.devices"
            )
        order = EpochOrder(
            self.answer_lengths, window=self.batch_size * self.accumulate, seed=self.seed, rank=rank, world=world
        )
        epoch, batches = self._resume
        order.resume_at(epoch, batches * self.batch_size)
        self._order = order
        return self._loader(self.train_samples, self.batch_size, sampler=order, drop_last=self.drop_last)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        shares = {
            name: rank_share(name, samples, self.eval_batch_size, *self._rank())
            for name, samples in (self.val_samples | self.held).items()
        }
        return [self._loader(share, self.eval_batch_size) for share in shares.values()]

    def state_dict(self) -> dict[str, Any]:
        """The current epoch, its batches that are behind us, how many ranks share the samples, and which these are."""
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0
        epoch = self._order.epoch if self._order else 0
        return {"epoch": epoch, "batches_done": int(done), "ranks": self._rank()[1], "samples": self._identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after ``batches_done`` batches of the epoch, or with the next one when it ended exactly there.

        An earlier version kept no epoch. Lightning knows it when the first sample is drawn, but workers draw sooner.
        """
        before, now = int(state_dict["ranks"]), self._rank()[1]
        if before != now:
            raise ValueError(f"the checkpoint is of {before} ranks, this run has {now}: set trainer.devices as it was")
        if state_dict.get("samples", self._identity) != self._identity:
            raise ValueError(
                f"the run was begun with other training samples (their hash was {state_dict['samples']}, is now "
                f"{self._identity}): undo what changed in the data or their answers, or begin it anew with restart=true"
            )
        share = len(self.train_samples) // now
        per_epoch = share // self.batch_size if self.drop_last else -(-share // self.batch_size)
        more, batches = divmod(int(state_dict["batches_done"]), max(1, per_epoch))
        self._resume = (int(state_dict["epoch"]) + more, batches) if "epoch" in state_dict else (None, batches)
        if "epoch" not in state_dict:
            self.num_workers = 0

    def _rank(self) -> tuple[int, int]:
        """This process's rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @cached_property
    def _identity(self) -> str:
        """Hash of the training samples: studies, images, labels, prompts and answers."""
        facts = [
            (s.study.study_id, s.study.image_sha256, s.study.target, s.study.mask, s.prompt, s.answer)
            for s in self.train_samples
        ]
        return sha256(repr(facts).encode()).hexdigest()[:16]

    @cached_property
    def answer_lengths(self) -> list[int]:
        """Tokens of each training answer, stop token included; zeros where there is nothing to learn from."""
        if any(sample.answer is None for sample in self.train_samples):
            return [0] * len(self.train_samples)
        return [int(n) for n in self._collate.encode_answers([s.answer or "" for s in self.train_samples])[1].sum(1)]

    def _loader(self, samples: Sequence[Sample], batch_size: int, **kwargs: Any) -> DataLoader[Batch]:
        return DataLoader(
            SampleDataset(samples),  # type: ignore[arg-type]
            batch_size=batch_size,
            collate_fn=self._collate,
            num_workers=self.num_workers,
            worker_init_fn=leave_to_parent,  # a forked one does so by itself
            persistent_workers=False,
            **kwargs,
        )


def rank_share(name: str, samples: Sequence[Sample], batch_size: int, rank: int, world: int) -> list[Sample]:
    """The samples of validation set ``name`` that one rank looks at: a consecutive part, equally many batches on each.

    Where a rank would have a batch less, it sees its last sample once more, without the answer: scores count a study
    once and the loss needs an answer, so nothing is counted twice. Raises ValueError when there are fewer samples than
    ranks.
    """
    n = len(samples)
    if 0 < n < world:
        raise ValueError(
            f"validation set '{name}' has {n} studies for {world} ranks: add studies, or use fewer devices"
        )
    share = list(samples[n * rank // world : n * (rank + 1) // world])
    if len(share) < -(-n // world) and len(share) % batch_size == 0:
        share.append(replace(share[-1], answer=None))
    return share
