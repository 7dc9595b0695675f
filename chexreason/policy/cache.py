"""Keys and values with room for a whole completion: a new token is written in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values [N, H, S, D] with space for ``room`` further tokens.

    ``DynamicLayer`` copies everything it holds at every token; this copies when rows leave, and else writes one column.
    For sampling only: writing in place would break a gradient. Raises IndexError once the room is used up.
    """

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._length = layer.keys.shape[-2]
        self._keys, self._values = _with_room(layer.keys, room), _with_room(layer.values, room)
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, end = self._length, self._length + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            raise IndexError(f"{end} tokens do not fit a cache made for {self._keys.shape[-2]}")
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = self._keys[:, :, : self._length], self._values[:, :, : self._length]


def make_room(cache: DynamicCache, room: int) -> None:
    """Give every layer of a prefilled cache space for ``room`` further tokens."""
    cache.layers = [RoomyLayer(layer, room) for layer in cache.layers]


def _with_room(states: Tensor, room: int) -> Tensor:
    n, heads, length, width = states.shape
    roomy = torch.empty((n, heads, length + room, width), dtype=states.dtype, device=states.device)
    roomy[:, :, :length] = states
    return roomy
