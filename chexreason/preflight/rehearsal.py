"""A model run without its numbers: every allocation is booked by kind, so a step's peak is known from shapes alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

MEMORY_KINDS = ("weights", "adapters", "gradients", "optimiser", "cache", "logits", "activations")
META, CPU = torch.device("meta"), torch.device("cpu")
_aten = torch.ops.aten
_INTEGER_FACTORIES = (_aten.arange.default, _aten.arange.start, _aten.arange.start_step, _aten.scalar_tensor.default)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention by the fused kernel, which keeps no [S, S] scores: without data torch would take the plain one."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # the kernels add it, so it is turned into numbers
        attn_mask = torch.where(attn_mask, 0.0, float("-inf")).to(query)
    output: Tensor = _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return output


class Rehearsal(TorchDispatchMode):
    """While it is active, floating-point tensors have shapes and no data; integers (ids, masks, grids) stay real.

    What decides a shape is thus computed, what does not is never stored. A truth value asked of a tensor without data
    is True: no answer ends early. ``resident`` are tensors by kind that exist before; a tensor whose last dimension is
    ``vocabulary`` counts as logits. ``peak`` holds the bytes by kind at the moment their sum was largest.
    """

    def __init__(self, resident: Mapping[str, Iterable[Tensor]], vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.bytes = dict.fromkeys(MEMORY_KINDS, 0)
        self.peak = dict(self.bytes)
        self._live: dict[int, tuple[int, str]] = {}
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._kind: str | None = None
        self._plain_attention = F.scaled_dot_product_attention
        for kind, tensors in resident.items():
            for tensor in tensors:
                self._book(tensor, kind)

    @contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """Book what is allocated in the block as ``name``."""
        self._kind = name
        try:
            yield
        finally:
            self._kind = None

    def __enter__(self) -> Rehearsal:
        F.scaled_dot_product_attention = _fused  # a mode would be lost where checkpointing recomputes
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        F.scaled_dot_product_attention = self._plain_attention

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self._placed(func, args, dict(kwargs or {}))
        if func is _aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return True
        if func is _aten._to_copy.default and _stays(args[0], **kwargs):
            return args[0]  # it was asked to go where floating-point tensors are; there no copy would be made
        output = func(*args, **kwargs)
        for tensor in tree_iter(output):
            if isinstance(tensor, Tensor):
                self._book(tensor, self._kind or self._guess(tensor))
        return output

    def _placed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The arguments on one device: without data as soon as one of them, or the result, is floating-point."""
        tensors = [a for a in tree_iter((args, kwargs)) if isinstance(a, Tensor)]
        if kwargs.get("device") is not None:
            kwargs["device"] = META if _gives_floats(func, args, kwargs, tensors) else CPU
            if tensors and tensors[0].is_meta:  # an integer without data stays so
                kwargs["device"] = META
        if not any(t.is_meta for t in tensors) and kwargs.get("device") != META:
            return args, kwargs
        if func in (_aten.index.Tensor, _aten.index_put_.default):  # a real mask says how many it selects
            args = (args[0], _positions(args[1]), *args[2:])
        without_data = tree_map_only(Tensor, lambda t: t if t.is_meta else torch.empty_like(t, device=META), args)
        return without_data, tree_map_only(Tensor, lambda t: t.to(META), kwargs)

    def _guess(self, tensor: Tensor) -> str:
        wide = tensor.is_floating_point() and tensor.dim() > 1 and tensor.shape[-1] == self.vocabulary
        return "logits" if wide else "activations"

    def _book(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:  # a view, or written in place
            return
        self._live[key] = (storage.nbytes(), kind)
        self._alive[key] = weakref.ref(storage, lambda _: self._release(key))
        self.bytes[kind] += storage.nbytes()
        if sum(self.bytes.values()) > sum(self.peak.values()):
            self.peak = dict(self.bytes)

    def _release(self, key: int) -> None:
        size, kind = self._live.pop(key)
        del self._alive[key]
        self.bytes[kind] -= size


def _stays(tensor: Tensor, device: torch.device | None = None, dtype: torch.dtype | None = None, **_: Any) -> bool:
    """Whether a copy of ``tensor`` would be of its own device and dtype."""
    return device in (None, tensor.device) and dtype in (None, tensor.dtype)


def _gives_floats(func: Any, args: Any, kwargs: Mapping[str, Any], tensors: list[Tensor]) -> bool:
    """Whether a call that names a device makes a floating-point tensor."""
    if (dtype := kwargs.get("dtype")) is not None:
        return bool(dtype.is_floating_point)
    if tensors:  # a copy, or like another tensor
        return tensors[0].is_floating_point()
    if func in _INTEGER_FACTORIES:
        return any(isinstance(a, float) for a in args)
    return not (func is _aten.full.default and isinstance(args[1], int))


def _positions(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Index tensors in which a real boolean mask is replaced by the positions it selects."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not index.is_meta:
            found.extend(index.nonzero().unbind(-1))
        else:
            found.append(index)
    return found
