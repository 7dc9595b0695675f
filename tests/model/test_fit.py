"""Adapters of another base or another rank are refused, with every misfit and the way out in one message."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from chexreason.model.adapters import (
    ADAPTER_CONFIG,
    WEIGHTS,
    attach_lora,
    base_fingerprint,
    merge_adapter,
    save_adapter,
)
from chexreason.model.load import load_policy

pytestmark = pytest.mark.slow  # each test runs a model


@pytest.fixture
def adapter(gemma, tmp_path):
    """The folder of an adapter of rank 4 for the packaged Gemma 3."""
    attach_lora(gemma, r=4, alpha=8, dropout=0.0, targets=r".*language_model.*layers\.0\..*(q_proj|down_proj)")
    save_adapter(gemma, tmp_path / "a", {})
    return tmp_path / "a"


@pytest.fixture
def model():
    """The bare model the adapter was made for."""
    return load_policy("tiny:tiny_gemma3", dtype="float32").model


def test_an_adapter_fits_the_base_it_was_made_for_in_any_dtype(adapter):
    for dtype in ("float32", "bfloat16"):
        load_policy("tiny:tiny_gemma3", dtype=dtype, adapters=[str(adapter)])


def test_the_fingerprint_outlives_training_and_merging_and_tells_bases_apart(gemma, adapter, model):
    before = base_fingerprint(model)
    assert base_fingerprint(gemma.base) == before  # with an adapter attached
    assert base_fingerprint(merge_adapter(model, adapter)) == before
    assert base_fingerprint(load_policy("tiny:tiny_qwen2_5_vl", dtype="float32").model) != before


def test_other_weights_of_the_same_shape_are_refused(adapter, model):
    with torch.no_grad():
        model.model.language_model.norm.weight += 0.1  # as a fine-tuned sister model would have it
    with pytest.raises(ValueError, match=r"trained on other weights .*made for tiny:tiny_gemma3: set model="):
        merge_adapter(model, adapter)


def test_another_rank_than_the_config_says_is_refused(adapter, model):
    config = json.loads((adapter / ADAPTER_CONFIG).read_text())
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(ValueError, match=r"4 weights of another rank than adapter_config.json says, e.g. .*: 4 for 8"):
        merge_adapter(model, adapter)


def test_weights_of_a_wider_model_and_unknown_modules_are_listed_together(adapter, model):
    weights = load_file(adapter / WEIGHTS)
    wide = {k: torch.zeros(4, 2560) if "q_proj.lora_A" in k else v for k, v in weights.items()}
    save_file({k.replace("layers.0.mlp", "layers.33.mlp"): v for k, v in wide.items()}, adapter / WEIGHTS)
    with pytest.raises(ValueError, match=r"2 names differ .*layers\.33.*; 1 weights of another width, .*2560 for 192"):
        merge_adapter(model, adapter)
