"""The full-size models on the meta device: what they weigh, and what exactly LoRA trains of them."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoModelForImageTextToText

from chexreason.model.adapters import attach_lora
from chexreason.preflight.meta_model import blank_policy, read_config

pytestmark = pytest.mark.slow  # seconds to lay out four billion weights, though none is stored
# Published counts: the sum over the safetensors files of the hub's folders, tied weights counted once.
PARAMETERS = {"medgemma-4b-it": 4_300_079_472, "Qwen2.5-VL-3B-Instruct": 3_754_622_976}
PARAMETERS["Qwen3-VL-4B-Instruct"] = 4_437_815_808
TRAINABLE = dict(zip(PARAMETERS, (29_802_496, 29_933_568, 33_030_144), strict=True))  # at rank 16
HUB = {name: ("google/" if name.startswith("medgemma") else "Qwen/") + name for name in PARAMETERS}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def closed_form(config, rank: int) -> int:
    """Trainable weights of LoRA on the seven projections of every layer: rank x (inputs + outputs), summed."""
    text = config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    d, f = text.hidden_size, text.intermediate_size
    q, kv = head * text.num_attention_heads, head * text.num_key_value_heads
    return rank * text.num_hidden_layers * (2 * (d + q) + 2 * (d + kv) + 3 * (d + f))


@pytest.fixture(scope="module", params=list(PARAMETERS))
def named(request):
    """The name of a model, its config and its weightless self."""
    config = read_config(HUB[request.param])
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    return request.param, config, model


def test_the_config_is_the_published_model(named):
    name, config, model = named
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) in {
        (2560, 34),
        (2048, 36),
        (2560, 36),
    }
    assert config.vision_config.patch_size == (16 if config.model_type == "qwen3_vl" else 14)


def test_lora_trains_the_seven_projections_of_every_layer_and_nothing_else(named):
    name, config, _ = named
    policy = blank_policy(HUB[name], dtype="bfloat16")
    attach_lora(policy, r=16, alpha=32, dropout=0.1)
    trained = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    places = {re.sub(r"\.lora_[AB]\.default\.weight$", "", n) for n in trained}
    layers = range(config.text_config.num_hidden_layers)
    found = {tuple(re.search(r"language_model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)$", n).groups()) for n in places}
    assert found == {(str(i), projection) for i in layers for projection in PROJECTIONS}
    assert len(trained) == 2 * len(found)
    assert not [n for n in trained if re.search(r"vision|visual|projector|merger|head|embed|norm", n)]
    assert sum(p.numel() for p in trained.values()) == closed_form(config, 16) == TRAINABLE[name]
    assert {p.dtype for p in trained.values()} == {torch.float32}
