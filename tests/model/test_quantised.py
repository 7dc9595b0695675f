"""QLoRA: what is in 4 bits, a hand-off from SFT to GRPO that is exact to the bit, 8-bit AdamW, misfits refused."""

from __future__ import annotations

import copy
import functools

import bitsandbytes
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from hydra import compose, initialize_config_dir

from chexreason.build.data import make
from chexreason.build.model import build_policy
from chexreason.confdir import confdir
from chexreason.model.adapters import attach_lora, read_card, save_adapter
from chexreason.model.load import load_policy
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy, pad_right
from tests.support.adapters import with_lora

pytestmark = pytest.mark.slow

IDS, MASK = pad_right([[5, 6, 7, 8]] * 3, 0)


@functools.cache
def _loaded(name: str) -> Policy:
    return load_policy(f"tiny:{name}", dtype="float32", quantise="nf4")


@pytest.fixture(params=["tiny_gemma3", "tiny_qwen2_5_vl"])
def nf4(request) -> Policy:
    return copy.deepcopy(_loaded(request.param))


def logp(policy: Policy, images, **kwargs) -> torch.Tensor:
    prompts = policy.encode(images, ["one", "two", "three"])
    return completion_scores(policy.eval(), prompts, IDS, MASK, **kwargs).logp


def test_the_language_model_alone_is_in_four_bits(nf4):
    quantised = [name for name, layer in nf4.base.named_modules() if isinstance(layer, Linear4bit)]
    assert len(quantised) == nf4.base.config.text_config.num_hidden_layers * 7
    assert all("language_model" in name for name in quantised)
    layer = nf4.base.get_submodule(quantised[0])
    state = layer.weight.quant_state
    assert (state.quant_type, state.nested, layer.compute_dtype) == ("nf4", True, torch.bfloat16)
    assert not layer.support_avx512bf16_for_cpu  # its packed weights would pass no gradient


def test_gradients_reach_every_adapter_after_an_evaluation(nf4, images):
    attach_lora(nf4, r=4, alpha=8, dropout=0.0)
    with torch.no_grad():
        before = logp(nf4, images)
    nf4.train()
    logp(nf4, images).sum().backward()
    ups = {n: p.grad for n, p in nf4.named_parameters() if "lora_B" in n}
    assert all(grad is not None and grad.abs().max() > 0 for grad in ups.values())
    assert torch.equal(logp(nf4, images).detach(), before)  # sampled and trained policy agree


def test_the_shared_prefix_agrees_with_the_plain_path(nf4, images):
    policy = with_lora(nf4, 1, dropout=0.1)
    with torch.no_grad():
        torch.testing.assert_close(logp(policy, images), logp(policy, images, shared=False), atol=3e-2, rtol=0)  # bf16


def test_grpo_starts_at_the_sft_policy_to_the_bit_and_keeps_it_as_reference(nf4, images, tmp_path):
    with torch.no_grad():
        base, sft = logp(nf4, images), logp(with_lora(nf4, 1, dropout=0.1), images)
        save_adapter(nf4, tmp_path / "sft", {})
        second = load_policy(nf4.source, dtype="float32", quantise="nf4", adapters=[str(tmp_path / "sft")])
        assert torch.equal(logp(second, images), sft)  # evaluation
        assert not [m for m in second.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]  # GRPO refuses it
        attach_lora(second, r=2, alpha=6, dropout=0.0)
        assert torch.equal(logp(second, images), sft)
        names = [n for n, p in second.named_parameters() if p.requires_grad]
        assert names
        assert all(".default." in n for n in names)
        for n, parameter in second.named_parameters():
            if n in names:
                torch.nn.init.normal_(parameter, std=0.05)
        with second.reference():
            assert torch.equal(logp(second, images), sft)
        moved = logp(second, images)
        assert names == [n for n, p in second.named_parameters() if p.requires_grad]  # as before the reference
    assert min((sft - base).abs().max(), (moved - sft).abs().max()) > 1e-3
    save_adapter(second, tmp_path / "grpo", {})
    whole = load_policy(nf4.source, dtype="float32", quantise="nf4", adapters=[str(tmp_path / "grpo")])
    assert whole.frozen_adapters() == ["earlier0"]
    with torch.no_grad():
        torch.testing.assert_close(logp(whole, images), moved, atol=3e-2, rtol=0)  # sums in another order, in bf16


def test_an_adapter_of_another_precision_is_refused(gemma, tmp_path):
    save_adapter(with_lora(gemma, 1, dropout=0.1), tmp_path / "full", {})
    save_adapter(with_lora(copy.deepcopy(_loaded("tiny_gemma3")), 1, dropout=0.1), tmp_path / "nf4", {})
    assert [read_card(tmp_path / name)["quantise"] for name in ("full", "nf4")] == [None, "nf4"]
    with pytest.raises(ValueError, match=r"trained on a base nf4, this one is in full precision.*quantise=nf4"):
        load_policy("tiny:tiny_gemma3", dtype="float32", adapters=[str(tmp_path / "nf4")])
    with pytest.raises(ValueError, match=r"trained on a base in full precision, this one is nf4.*quantise=null"):
        load_policy("tiny:tiny_gemma3", dtype="float32", quantise="nf4", adapters=[str(tmp_path / "full")])
    with pytest.raises(ValueError, match=r"model.quantise='int3'.*use nf4"):
        load_policy("tiny:tiny_gemma3", quantise="int3")


def test_the_two_configs_load_and_train(images):
    with initialize_config_dir(confdir(), version_base="1.3"):
        cfg = compose("train", ["adapter=qlora", "optim=adamw8bit", "phase.lr=1e-2"])
    assert (cfg.model.quantise, cfg.adapter.r, cfg.adapter.alpha, cfg.optim.optimizer.weight_decay) == (
        "nf4",
        16,
        32,
        0.01,
    )
    policy = build_policy(cfg)
    attach_lora(policy, r=cfg.adapter.r, alpha=cfg.adapter.alpha, dropout=0.0)
    optimizer = make(cfg.optim.optimizer)([p for p in policy.parameters() if p.requires_grad])
    assert isinstance(optimizer, bitsandbytes.optim.AdamW8bit)
    before = logp(policy, images).sum().detach()
    for _ in range(2):
        (-logp(policy, images).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert logp(policy, images).sum() > before + 1
    large = [s for p, s in optimizer.state.items() if p.numel() >= 4096]
    assert large
    assert all(s["state1"].dtype == torch.uint8 for s in large)
