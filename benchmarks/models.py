"""Models of about 50 million random weights in the shapes of Gemma 3 and Qwen2.5-VL, with 256 image tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.image_utils import SizeDict

from chexreason.model.load import resolve_source

FAMILIES = {"gemma3": "Gemma 3", "qwen2_5_vl": "Qwen2.5-VL"}
IMAGE_TOKENS, VOCABULARY = 256, 32_768
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 4}
TEXT |= {"vocab_size": VOCABULARY}
TOWER = {"hidden_size": 384, "intermediate_size": 1536}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the text, of the tower
    "gemma3": (
        {"layer_types": ["sliding_attention", "full_attention"] * 3, "head_dim": 128},
        {"num_hidden_layers": 6, "num_attention_heads": 6},
    ),
    "qwen2_5_vl": (
        {"layer_types": ["full_attention"] * 6},
        {"depth": 6, "num_heads": 6, "out_hidden_size": TEXT["hidden_size"]},
    ),
}


def source(family: str) -> str:
    """The packaged tiny model whose tokenizer, special ids and details a model of ``family`` has."""
    return resolve_source(f"tiny:tiny_{family}")


def model(
    family: str, side: int, dtype: str = "float32", text: Mapping[str, Any] = {}, tower: Mapping[str, Any] = {}
) -> Any:
    """A model of ``family`` for images of ``side`` pixels, the same at every call; frozen, and its image matters.

    ``text`` and ``tower`` change the shape of either part.
    """
    torch.manual_seed(0)
    small = json.loads((Path(source(family)) / "config.json").read_text()) | {"dtype": "float32"}
    own_text, own_tower = SHAPES[family]
    if family == "gemma3":
        small, own_tower = small | {"mm_tokens_per_image": IMAGE_TOKENS}, own_tower | {"image_size": side}
    parts = {
        "text_config": small["text_config"] | TEXT | own_text | dict(text),
        "vision_config": small["vision_config"] | TOWER | own_tower | dict(tower),
    }
    config = AutoConfig.for_model(**small | parts)
    found = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    if family == "gemma3":  # its projection starts at zero
        torch.nn.init.normal_(found.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    found.generation_config = GenerationConfig.from_pretrained(source(family))
    return found.requires_grad_(False).to(getattr(torch, dtype))


def processor(family: str, side: int) -> Any:
    """The tiny model's processor, at this model's image size."""
    extra = {"image_seq_length": IMAGE_TOKENS} if family == "gemma3" else {}
    found = AutoProcessor.from_pretrained(source(family), **extra)
    names = ("height", "width") if family == "gemma3" else ("shortest_edge", "longest_edge")  # edges mean areas here
    found.image_processor.size = SizeDict(**dict.fromkeys(names, side if family == "gemma3" else side * side))
    return found


def images(side: int, n: int) -> list[Image.Image]:
    """Grey noise of ``side`` x ``side`` pixels."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (side, side), dtype=np.uint8)).convert("RGB") for _ in range(n)]
