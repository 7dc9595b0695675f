"""Adapters: where they sit, which base they belong to, misfits that are refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from chexreason.model.adapters import (
    ADAPTER_CONFIG,
    CARD,
    WEIGHTS,
    attach_lora,
    base_fingerprint,
    keep_adapter,
    save_adapter,
    unchanging,
)
from chexreason.model.load import load_policy
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


def test_the_fingerprint_outlives_training_and_merging_and_tells_bases_apart(gemma, adapter, model):
    before = base_fingerprint(model)
    assert base_fingerprint(gemma.base) == before  # with an adapter attached
    assert base_fingerprint(keep_adapter(model, adapter, "earlier0").get_base_model()) == before
    assert base_fingerprint(load_policy("tiny:tiny_qwen2_5_vl", dtype="float32").model) != before


def test_other_weights_of_the_same_shape_are_refused(adapter, model):
    with torch.no_grad():
        model.model.language_model.norm.weight += 0.1  # as a fine-tuned sister model would have it
    with pytest.raises(ValueError, match=r"trained on other weights .*made for tiny:tiny_gemma3: choose its model="):
        keep_adapter(model, adapter, "earlier0")


RANK_8 = r"4 weights have another size \(rank 8\), e.g. .*: \[4, 512\] for \[8, 512\]"
WIDER = r"4 names differ, .*; 1 weights have another size .*\[4, 2560\] for \[4, 192\]\. It was made for"
MISFITS = {  # what the config says beside what it said, what becomes of a weight's name and of the weight
    RANK_8: ({"r": 8}, lambda name: name, lambda name, weight: weight),
    WIDER: (
        {},
        lambda name: name.replace("layers.0.mlp", "layers.33.mlp"),
        lambda name, weight: torch.zeros(4, 2560) if "q_proj.lora_A" in name else weight,
    ),
    r"4 weights have another size \(rank 1000000000\)": ({"r": 10**9}, lambda name: name, lambda name, weight: weight),
    r"adapter_config.json is damaged": ({"r": -1}, lambda name: name, lambda name, weight: weight),
    r"adapter_config.json is damaged or": ({"lora_alpha": math.inf}, lambda name: name, lambda name, weight: weight),
    r"is no plain LoRA \(peft_type in": ({"peft_type": "IA3"}, lambda name: name, lambda name, weight: weight),
    r"is no plain LoRA \(alora_inv": ({"alora_invocation_tokens": [1]}, lambda name: name, lambda name, weight: weight),
    r"does not fit the model: 2 names differ, e.g. .*q_proj\.lora_A": (
        {},
        lambda name: name,
        lambda name, weight: None if "q_proj" in name else weight,
    ),
}


@pytest.mark.parametrize("said", MISFITS)
def test_what_does_not_fit_is_listed_together(adapter, model, said):
    settings, renamed, changed = MISFITS[said]
    config = json.loads((adapter / ADAPTER_CONFIG).read_text())
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config | settings))
    weights = {renamed(name): changed(name, weight) for name, weight in load_file(adapter / WEIGHTS).items()}
    save_file({name: weight for name, weight in weights.items() if weight is not None}, adapter / WEIGHTS)
    (adapter / CARD).unlink()  # it would say that they are damaged
    with pytest.raises(ValueError, match=said):
        keep_adapter(model, adapter, "earlier0")


STUCK = r"(\w+\.?)+!"  # minutes for each name of a module
LAYERS = {"layers_to_transform": [0], "layers_pattern": STUCK}
LONG = {"target_modules": [f"x{i}" for i in range(100_000)]}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("settings", [{"target_modules": STUCK}, {"exclude_modules": STUCK}, LAYERS, LONG], ids=list)
def test_no_pattern_of_a_folder_is_run(adapter, model, settings):
    config = json.loads((adapter / ADAPTER_CONFIG).read_text())
    assert [name.rpartition(".")[2] for name in config["target_modules"]] == ["down_proj", "q_proj"]
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config | settings))
    (adapter / CARD).unlink()
    kept = keep_adapter(model, adapter, "earlier0").state_dict()
    found = {name.replace("earlier0.", ""): value for name, value in kept.items() if "lora_" in name}
    for name, value in load_file(adapter / WEIGHTS).items():
        assert torch.equal(found.pop(name), value)
    assert not found
