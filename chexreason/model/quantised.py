"""A base model in 4 bits: how it is loaded, and how earlier adapters stay beside weights they cannot be merged into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers import BitsAndBytesConfig

# Not quantised, in both architectures: images are encoded in full precision, and the head is the embedding.
KEPT = ("model.vision_tower", "model.multi_modal_projector", "model.visual", "lm_head")
NEW = "default"  # the adapter under training, by PEFT's own name for the first one


def quantisation(kind: str | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that load the weights as ``kind``; none where that is None.

    "nf4" is QLoRA's (arXiv 2305.14314): 4-bit NormalFloat, its block scales quantised too, products in bfloat16.
    Raises ValueError for any other name.
    """
    if kind is None:
        return {}
    if kind != "nf4":
        raise ValueError(f"model.quantise={kind!r} is not known: use nf4, or null for full precision")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(KEPT),
    )
    return {"quantization_config": config, "device_map": {"": "cpu"}}


def keep_differentiable(model: Any) -> None:
    """Stop the CPU kernel of AVX512-BF16 machines: after one pass in evaluation its packed weights pass no gradient."""
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def precision_of(model: Any) -> str | None:
    """The ``kind`` a model was loaded with; None in full precision."""
    return "nf4" if getattr(model, "is_loaded_in_4bit", False) else None


def frozen_adapters(model: Any) -> list[str]:
    """Names of the adapters kept beside the weights, oldest first; empty where all were merged."""
    return [name for name in getattr(model, "peft_config", {}) if name != NEW]


@contextmanager
def without_new(model: PeftModel) -> Iterator[None]:
    """The model without the adapter under training: the base with the frozen ones, or the base alone.

    Not for use while a gradient is being taken.
    """
    if not (frozen := frozen_adapters(model)):
        with model.disable_adapter():
            yield
        return
    model.base_model.set_adapter(frozen, inference_mode=True)
    try:
        yield
    finally:
        activate_all(model)


def activate_all(model: PeftModel) -> None:
    """Add up all adapters of the model, of which the one under training alone is trained."""
    frozen = frozen_adapters(model)
    model.base_model.set_adapter([*frozen, NEW])  # in this order: a new adapter adds exact zeros to the earlier sum
    model.base_model.set_requires_grad(frozen, requires_grad=False)
