"""Models of about 50 million random weights in the shapes of Gemma 3 and Qwen2.5-VL: 1024 patches, 256 image tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.image_utils import SizeDict

from chexreason.model.load import resolve_source

SIZE, IMAGE_TOKENS, VOCABULARY = 512, 256, 32_768
EDGES = ("shortest_edge", "longest_edge")  # of Qwen2.5-VL's image processor, in pixels of area
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 4}
TEXT |= {"vocab_size": VOCABULARY}
TOWER = {"hidden_size": 384, "intermediate_size": 1536}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {  # of the whole, the text, the tower
    "gemma3": (
        {"mm_tokens_per_image": IMAGE_TOKENS},
        {"layer_types": ["sliding_attention", "full_attention"] * 3, "head_dim": 128},
        {"num_hidden_layers": 6, "num_attention_heads": 6, "image_size": SIZE},
    ),
    "qwen2_5_vl": (
        {},
        {
            "layer_types": ["full_attention"] * 6,
            "rope_parameters": {"mrope_section": [16, 24, 24], "rope_theta": 10000.0, "rope_type": "default"},
        },
        {"depth": 6, "num_heads": 6, "out_hidden_size": 512, "fullatt_block_indexes": [2, 5]},
    ),
}


def model(family: str) -> Any:
    """A model of about 50 million parameters; the image matters (Gemma's projection starts at zero otherwise)."""
    torch.manual_seed(0)
    small = json.loads((Path(resolve_source(f"tiny:tiny_{family}")) / "config.json").read_text())
    whole, text, tower = SHAPES[family]
    config = AutoConfig.for_model(
        **(small | whole | {"dtype": "float32"})
        | {"text_config": small["text_config"] | TEXT | text, "vision_config": small["vision_config"] | TOWER | tower}
    )
    found = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    if family == "gemma3":
        torch.nn.init.normal_(found.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    ids = {name: small["text_config"].get(name, small.get(name)) for name in ("eos_token_id", "bos_token_id")}
    found.generation_config = GenerationConfig(**ids, pad_token_id=processor(family).tokenizer.pad_token_id)
    return found.requires_grad_(False)


def processor(family: str) -> Any:
    """The tiny model's processor, at this model's image size."""
    extra = {"image_seq_length": IMAGE_TOKENS} if family == "gemma3" else {}
    found = AutoProcessor.from_pretrained(resolve_source(f"tiny:tiny_{family}"), **extra)
    size = {"height": SIZE, "width": SIZE} if family == "gemma3" else dict.fromkeys(EDGES, SIZE * SIZE)
    found.image_processor.size = SizeDict(**size)
    return found
