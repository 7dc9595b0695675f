"""Models of about 50 million random weights in the two real shapes, with 256 image tokens and prompts of 150 words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.image_utils import SizeDict

from chexreason.model.load import resolve_source

FAMILIES = ("gemma3", "qwen2_5_vl")
IMAGE_TOKENS, VOCABULARY = 256, 32_768
PIXELS = {"gemma3": 256, "qwen2_5_vl": 512}  # a side: 16 x 16 merged patches in both
PROMPT = (
    "You are a radiologist. Read this frontal chest radiograph and list the findings. " * 8
    + "Think first, then close with one list of labels."
)
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": VOCABULARY}
VISION = {"hidden_size": 384, "intermediate_size": 1536}


def source(family: str) -> str:
    """The packaged tiny model whose tokenizer, special ids and details a model of ``family`` has."""
    return resolve_source(f"tiny:tiny_{family}")


def model(family: str, dtype: str) -> Any:
    """A model of ``family`` with random weights, the same at every call; frozen, and its image matters."""
    torch.manual_seed(0)
    small = json.loads((Path(source(family)) / "config.json").read_text()) | {"dtype": "float32"}
    found = (gemma3 if family == "gemma3" else qwen2_5_vl)(small)
    return found.requires_grad_(False).to(getattr(torch, dtype))


def gemma3(small: dict[str, Any]) -> Gemma3ForConditionalGeneration:
    """Gemma 3: sliding window and full attention in turn, one key head for two query heads."""
    text = TEXT | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128}
    text |= {"layer_types": ["sliding_attention", "full_attention"] * 3}
    vision = VISION | {"num_hidden_layers": 6, "num_attention_heads": 6, "image_size": PIXELS["gemma3"]}
    config = Gemma3Config.from_dict(
        small
        | {"mm_tokens_per_image": IMAGE_TOKENS}
        | {"text_config": small["text_config"] | text, "vision_config": small["vision_config"] | vision}
    )
    found = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(found.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    found.generation_config = GenerationConfig(eos_token_id=small["eos_token_id"], pad_token_id=0, bos_token_id=2)
    return found


def qwen2_5_vl(small: dict[str, Any]) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL: M-RoPE, windows in the vision tower, four patches merged into a token."""
    text = TEXT | {"num_attention_heads": 8, "num_key_value_heads": 2, "layer_types": ["full_attention"] * 6}
    vision = VISION | {"depth": 6, "num_heads": 6, "out_hidden_size": TEXT["hidden_size"]}
    config = Qwen2_5_VLConfig.from_dict(
        small | {"text_config": small["text_config"] | text, "vision_config": small["vision_config"] | vision}
    )
    found = Qwen2_5_VLForConditionalGeneration(config)
    ids = {name: small["text_config"][name] for name in ("eos_token_id", "pad_token_id")}
    found.generation_config = GenerationConfig(**ids)
    return found


def processor(family: str) -> Any:
    """The tiny model's processor, made to give ``IMAGE_TOKENS`` an image."""
    if family == "gemma3":
        found = AutoProcessor.from_pretrained(source(family), image_seq_length=IMAGE_TOKENS)
        found.image_processor.size = SizeDict(height=PIXELS[family], width=PIXELS[family])
        return found
    found = AutoProcessor.from_pretrained(source(family))
    area = PIXELS[family] ** 2
    found.image_processor.size = SizeDict(shortest_edge=area, longest_edge=area)
    return found


def images(family: str, n: int) -> list[Image.Image]:
    """Grey noise of the size the processor asks for."""
    rng, side = np.random.default_rng(0), PIXELS[family]
    return [Image.fromarray(rng.integers(0, 255, (side, side), dtype=np.uint8)).convert("RGB") for _ in range(n)]
