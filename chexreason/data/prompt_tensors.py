"""Encoded prompts: the tensors of several left-padded prompts, one image each, that can be cut by study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts of B studies, padded on the left.

    ``input_ids``, ``attention_mask`` and ``type_ids`` (1 at image placeholders) are [B, P]. ``pixel_values`` is
    [B, 3, H, W], or, where ``grid`` [B, 3] counts patches (Qwen2.5-VL), [sum of patches, D]: its rows are patches, not
    samples. ``features`` holds the projected image tokens of each study, [n_i, hidden], once they have been computed;
    ``images`` the hash of each study's image file, where its features are to be kept.
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
        moved = {
            name: value.to(device) if isinstance(value := getattr(self, name), Tensor) else None
            for name in ("input_ids", "attention_mask", "type_ids", "pixel_values", "grid")
        }
        features = None if self.features is None else tuple(f.to(device) for f in self.features)
        return replace(self, features=features, **moved)

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
