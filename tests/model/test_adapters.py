"""Adapters: where they sit, plain PEFT layout, chains that become one, misfits that are refused."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from chexreason.model.adapters import (
    ADAPTER_CONFIG,
    WEIGHTS,
    attach_lora,
    base_fingerprint,
    keep_adapter,
    read_card,
    save_adapter,
    unchanging,
)
from chexreason.model.load import load_policy, resolve_source
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import pad_right
from tests.support.adapters import with_lora

pytestmark = pytest.mark.slow  # each test runs a model


def logp(policy, images):
    ids, mask = pad_right([[5, 6, 7, 8]] * 3, 0)
    prompts = policy.encode(images, ["one", "two", "three"])
    return completion_scores(policy.eval(), prompts, ids, mask).logp.detach()


def test_lora_trains_the_language_model_only(policy):
    attach_lora(policy, r=4, alpha=8, dropout=0.0)
    names = [n for n, p in policy.named_parameters() if p.requires_grad]
    layers = policy.base.config.text_config.num_hidden_layers
    assert len(names) == layers * 7 * 2
    assert all("language_model" in n for n in names)


def test_targets_that_reach_the_vision_tower_are_refused(policy):
    with pytest.raises(ValueError, match="reaches the vision tower"):
        attach_lora(policy, targets=r".*(q_proj|qkv)")


def test_saved_adapter_loads_with_bare_peft(policy, images, tmp_path):
    with_lora(policy, 1)
    expected = logp(policy, images)
    save_adapter(policy, tmp_path / "a", {"prompt": "p"})
    bare = AutoModelForImageTextToText.from_pretrained(resolve_source(policy.source), dtype=torch.float32)
    fresh = load_policy(policy.source, dtype="float32")
    assert (logp(fresh, images) - expected).abs().max() > 1e-3  # the adapter does something
    fresh.model = PeftModel.from_pretrained(bare, str(tmp_path / "a"))
    torch.testing.assert_close(logp(fresh, images), expected, atol=1e-5, rtol=0)
    assert read_card(tmp_path / "a")["prompt"] == "p"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]  # no staging folder is left


def test_a_chain_of_adapters_is_written_as_one(gemma, images, tmp_path):
    with_lora(gemma, 1)
    save_adapter(gemma, tmp_path / "sft", {})
    second = load_policy("tiny:tiny_gemma3", dtype="float32", adapters=[str(tmp_path / "sft")])
    with_lora(second, 2, r=2, alpha=6)
    expected = logp(second, images)
    save_adapter(second, tmp_path / "grpo", {})
    assert json.loads((tmp_path / "grpo" / "adapter_config.json").read_text())["r"] == 6
    whole = load_policy("tiny:tiny_gemma3", dtype="float32", adapters=[str(tmp_path / "grpo")])
    torch.testing.assert_close(logp(whole, images), expected, atol=1e-5, rtol=0)


def test_the_reference_is_the_merged_sft_policy_not_the_base(gemma, images, tmp_path):
    base = logp(gemma, images)
    with_lora(gemma, 1)
    sft = logp(gemma, images)
    save_adapter(gemma, tmp_path / "sft", {})
    second = load_policy("tiny:tiny_gemma3", dtype="float32", adapters=[str(tmp_path / "sft")])
    with_lora(second, 2)
    with second.reference():
        torch.testing.assert_close(logp(second, images), sft, atol=1e-5, rtol=0)
    assert (sft - base).abs().max() > 1e-3
    assert (logp(second, images) - sft).abs().max() > 1e-3


def test_merging_for_a_while_changes_nothing_but_the_work(gemma, images):
    with_lora(gemma, 1)
    before = {name: value.clone() for name, value in gemma.state_dict().items()}
    expected, base = logp(gemma, images), None
    with unchanging(gemma):
        torch.testing.assert_close(logp(gemma, images), expected, atol=1e-5, rtol=0)
        with gemma.reference():
            base = logp(gemma, images)  # PEFT unmerges by itself here: the next test of equality must still hold
    assert base is not None
    after = gemma.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # to the bit
    assert torch.equal(logp(gemma, images), expected)


def test_weights_that_would_round_the_adapter_away_are_not_merged(gemma):
    gemma.model = gemma.model.bfloat16()
    with_lora(gemma, 1)
    before = {name: value.clone() for name, value in gemma.base.state_dict().items()}
    with unchanging(gemma):
        assert all(torch.equal(before[name], value) for name, value in gemma.base.state_dict().items())


def test_adapters_that_do_not_fit_are_refused(gemma, tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter in"):
        keep_adapter(gemma.model, tmp_path, "earlier0")
    qwen = load_policy("tiny:tiny_qwen2_5_vl", dtype="float32")
    attach_lora(qwen, r=4, alpha=8, dropout=0.0, targets=r".*language_model.*layers\.0.*q_proj")
    save_adapter(qwen, tmp_path / "a", {})  # its shapes would fit the other architecture
    with pytest.raises(ValueError, match="belongs to a qwen2_5_vl model, this is gemma3"):
        keep_adapter(gemma.model, tmp_path / "a", "earlier0")


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
    assert base_fingerprint(keep_adapter(model, adapter, "earlier0").get_base_model()) == before
    assert base_fingerprint(load_policy("tiny:tiny_qwen2_5_vl", dtype="float32").model) != before


def test_other_weights_of_the_same_shape_are_refused(adapter, model):
    with torch.no_grad():
        model.model.language_model.norm.weight += 0.1  # as a fine-tuned sister model would have it
    with pytest.raises(ValueError, match=r"trained on other weights .*made for tiny:tiny_gemma3: set model="):
        keep_adapter(model, adapter, "earlier0")


def test_another_rank_than_the_config_says_is_refused(adapter, model):
    config = json.loads((adapter / ADAPTER_CONFIG).read_text())
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(ValueError, match=r"4 weights have another size \(rank 8\), e.g. .*: \[4, 512\] for \[8, 512\]"):
        keep_adapter(model, adapter, "earlier0")


def test_weights_of_a_wider_model_and_unknown_modules_are_listed_together(adapter, model):
    weights = load_file(adapter / WEIGHTS)
    wide = {k: torch.zeros(4, 2560) if "q_proj.lora_A" in k else v for k, v in weights.items()}
    save_file({k.replace("layers.0.mlp", "layers.33.mlp"): v for k, v in wide.items()}, adapter / WEIGHTS)
    with pytest.raises(
        ValueError,
        match=r"4 names differ, .*; 1 weights have another size .*\[4, 2560\] for \[4, 192\]\. It was made for",
    ):
        keep_adapter(model, adapter, "earlier0")


def test_an_adapter_that_lacks_weights_it_declares_is_refused(adapter, model):
    weights = load_file(adapter / WEIGHTS)
    save_file({k: v for k, v in weights.items() if "q_proj" not in k}, adapter / WEIGHTS)
    with pytest.raises(ValueError, match=r"does not fit the model: 2 names differ, e.g. .*q_proj\.lora_A"):
        keep_adapter(model, adapter, "earlier0")
