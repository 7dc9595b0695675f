"""From studies to batches: images decoded, prompts encoded, answers tokenised, in a reproducible order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from chexreason.data.image import load_image
from chexreason.types import Sample, Study


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts of B studies, padded on the left.

    ``input_ids``, ``attention_mask`` and ``type_ids`` (1 at image placeholders) are [B, P]. ``pixel_values`` is
    [B, 3, H, W], or, where ``grid`` [B, 3] counts patches (Qwen-VL), [sum of patches, D]: its rows are patches, not
    samples. ``features`` holds what the language model takes of each study's image, [n_i, hidden] in most families,
    once it has been computed; ``images`` the hash of each study's image file, where its features are to be kept.
    """

    input_ids: Tensor
    attention_mask: Tensor
    type_ids: Tensor
    pixel_values: Tensor | None = None
    grid: Tensor | None = None
    features: tuple[Tensor, ...] | None = None
    images: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> EncodedPrompts:
        """The same prompts on ``device``."""
        return replace(self, **{field.name: _sent(getattr(self, field.name), device) for field in fields(self)})

    def select(self, rows: Sequence[int]) -> EncodedPrompts:
        """The prompts of ``rows``, with padding that none of them needs cut from the left."""
        index = torch.as_tensor(list(rows), device=self.input_ids.device)
        mask = self.attention_mask[index]
        start = int((mask.sum(0) > 0).to(torch.int).argmax())
        return EncodedPrompts(
            input_ids=self.input_ids[index][:, start:],
            attention_mask=mask[:, start:],
            type_ids=self.type_ids[index][:, start:],
            pixel_values=self._select_pixels(list(rows)),
            grid=None if self.grid is None else self.grid[index],
            features=None if self.features is None else tuple(self.features[i] for i in rows),
            images=None if self.images is None else tuple(self.images[i] for i in rows),
        )

    def _select_pixels(self, rows: list[int]) -> Tensor | None:
        if self.pixel_values is None or self.grid is None:
            return None if self.pixel_values is None else self.pixel_values[rows]
        pieces = self.pixel_values.split(self.grid.prod(-1).tolist())
        return torch.cat([pieces[i] for i in rows])


@dataclass(frozen=True)
class Batch:
    """Samples with their encoded prompts and, where they have answers, the tokenised answers [B, T] and their mask.

    ``update_tokens`` is the number of answer tokens of the whole optimiser update this batch belongs to, per rank: the
    one divisor that makes the loss independent of micro-batch size, accumulation and number of ranks.
    """

    samples: tuple[Sample, ...]
    prompts: EncodedPrompts
    answer_ids: Tensor | None = None
    answer_mask: Tensor | None = None
    update_tokens: float = 0.0

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        return replace(self, **{field.name: _sent(getattr(self, field.name), device) for field in fields(self)})


def _sent(value: Any, device: torch.device | str) -> Any:
    """``value`` on ``device``: a tensor, prompts, or a tuple that may hold tensors; anything else as it is."""
    if isinstance(value, Tensor | EncodedPrompts):
        return value.to(device)
    return tuple(_sent(item, device) for item in value) if type(value) is tuple else value


LoadImage = Callable[[Study], Any]  # returns what ``EncodePrompts`` takes: an image, or its known features
EncodePrompts = Callable[[Sequence[Any], Sequence[str]], EncodedPrompts]
EncodeAnswers = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class SampleDataset(Dataset[tuple[Sample, float]]):
    """Samples addressed by index, or by (index, update tokens) as :class:`EpochOrder` yields them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, float]) -> tuple[Sample, float]:
        index, tokens = key if isinstance(key, tuple) else (key, 0.0)
        return self.samples[index], tokens


class EpochOrder(Sampler[tuple[int, float]]):
    """A shuffle that is a function of (seed, epoch), shared out over ranks, that can start in the middle.

    ``lengths`` [n] are answer lengths in tokens (zeros where unused) and ``window`` is the number of samples a rank
    contributes to one optimiser update; within an update, samples of like length share a batch. Ranks get equal shares
    (the order is cut to a multiple), so no rank waits for another. ``resume_at`` sets where a resumed run goes on.
    """

    def __init__(self, lengths: Sequence[int], *, window: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if len(lengths) < world:
            raise ValueError(f"{len(lengths)} training samples cannot be shared by {world} ranks")
        self.lengths = torch.as_tensor(lengths, dtype=torch.float64)
        self.window, self.seed, self.rank, self.world = window, seed, rank, world
        self.epoch = self._skip = 0
        self._resumed: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch; but on a resume only after workers have begun to read ahead."""
        self.epoch = epoch

    def resume_at(self, epoch: int | None, skip: int) -> None:
        """Leave out the first ``skip`` samples of ``epoch``; None is the epoch that is set when the first is drawn."""
        self.epoch, self._resumed, self._skip = epoch or 0, epoch, skip

    def __len__(self) -> int:
        return len(self.lengths) // self.world

    def __iter__(self) -> Iterator[tuple[int, float]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)[: len(self) * self.world]
        order = length_grouped(order, self.lengths, self.window * self.world)
        if self._resumed is None:
            self._resumed = self.epoch
        for position in range(self._skip if self.epoch == self._resumed else 0, len(self)):
            first = position // self.window * self.window * self.world
            update = order[first : first + self.window * self.world]
            tokens = float(self.lengths[update].sum()) / self.world
            yield int(order[position * self.world + self.rank]), tokens


def load_study(study: Study) -> Image.Image:
    """The radiograph of ``study`` as its file has it; raises ImageError where that is not the one prepared."""
    return load_image(study.image, study.image_sha256)


class Collate:
    """Load images and encode prompts (and answers) of a list of samples; runs in the loader's workers.

    ``load`` and ``encode`` go together: where the first brings images already resized, the second must not do it again.
    """

    def __init__(self, encode: EncodePrompts, encode_answers: EncodeAnswers, load: LoadImage = load_study) -> None:
        self.encode, self.encode_answers, self.load = encode, encode_answers, load

    def __call__(self, items: Sequence[tuple[Sample, float]]) -> Batch:
        samples = tuple(sample for sample, _ in items)
        films = [self.load(sample.study) for sample in samples]
        try:
            prompts = self.encode(films, [sample.prompt for sample in samples])
        except ValueError as error:
            if (named := self._culprit(samples, films)) is None:
                raise
            raise named from error
        if any(sample.answer is None for sample in samples):
            return Batch(samples, prompts)
        ids, mask = self.encode_answers([sample.answer or "" for sample in samples])
        return Batch(samples, prompts, ids, mask, update_tokens=items[0][1])

    def _culprit(self, samples: Sequence[Sample], films: Sequence[Any]) -> ValueError | None:
        """The error of the first sample that cannot be encoded alone, with its study and file; None where all can."""
        for sample, film in zip(samples, films, strict=True):
            try:
                self.encode([film], [sample.prompt])
            except ValueError as error:
                return ValueError(f"study {sample.study.study_id} ({sample.study.image}): {error}")
        return None


def length_grouped(order: Tensor, lengths: Tensor, window: int) -> Tensor:
    """``order`` [n] with each run of ``window`` samples sorted by ``lengths`` [m], shortest first.

    Where a window is what all ranks contribute to one update, the update holds the samples it held before: only how
    they are cut into batches changes, which the loss does not depend on. No cut into full batches pads less.
    Neighbours go to the ranks in turn, so these have equal work; equal lengths keep their order. A function of its
    arguments alone, so a resumed epoch goes on as it began. Raises ValueError for a window below 1.

    >>> length_grouped(torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([5, 9, 5, 1, 8, 2]), 4).tolist()
    [3, 0, 2, 1, 5, 4]
    """
    if window < 1:
        raise ValueError(f"window={window}: an update has at least one sample")
    parts = order.split(window)
    return torch.cat([part[lengths[part].argsort(stable=True)] for part in parts])
