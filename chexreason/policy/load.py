"""Load a policy: hub id, local folder or one of the packaged tiny models, all through the same code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from chexreason.policy.adapters import merge_adapter
from chexreason.policy.policy import Policy

TINY_WEIGHTS = Path(__file__).parent / "tiny" / "weights"


def resolve_source(source: str) -> str:
    """Turn ``tiny:NAME`` into the packaged folder; any other source is returned as it is.

    Raises FileNotFoundError naming the packaged models, or the folder that has no ``config.json``.
    """
    if source.startswith("tiny:"):
        folder = TINY_WEIGHTS / source.removeprefix("tiny:")
        if not (folder / "config.json").is_file():
            known = sorted(p.name for p in TINY_WEIGHTS.iterdir() if p.is_dir())
            raise FileNotFoundError(f"no packaged model '{source}'; packaged: {', '.join('tiny:' + k for k in known)}")
        return str(folder)
    looks_local = source.startswith(("/", ".", "~"))
    if looks_local and not (Path(source).expanduser() / "config.json").is_file():
        raise FileNotFoundError(f"model.source={source}: no config.json there; give a hub id or a model's folder")
    return str(Path(source).expanduser()) if looks_local else source


def load_policy(
    source: str,
    *,
    dtype: str = "bfloat16",
    device: str = "cpu",
    attention: str = "sdpa",
    adapters: Sequence[str] = (),
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    gradient_checkpointing: bool = False,
) -> Policy:
    """A policy ready to train or evaluate.

    ``source`` is a hub id, a local folder or ``tiny:NAME``; ``adapters`` are folders in PEFT layout, merged into the
    weights in order; ``min_pixels`` and ``max_pixels`` bound the image size of processors that choose it themselves
    (Qwen2.5-VL). Weights are read from safetensors only and no remote code is run.
    """
    path = resolve_source(source)
    processor = AutoProcessor.from_pretrained(path, **_pixel_bounds(min_pixels, max_pixels))
    model: Any = AutoModelForImageTextToText.from_pretrained(
        path, dtype=getattr(torch, dtype), attn_implementation=attention, use_safetensors=True
    )
    for folder in adapters:
        model = merge_adapter(model, folder)
    model.requires_grad_(False)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(model.to(device), processor, source)


def _pixel_bounds(low: int | None, high: int | None) -> dict[str, int]:
    return {k: v for k, v in (("min_pixels", low), ("max_pixels", high)) if v is not None}
