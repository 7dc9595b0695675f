"""One policy everywhere: a small adapter acts alike in training, validation, evaluation, reference, export, 4 bits.

What an adapter does is measured at every projection, before its output is rounded: what the policy adds there, against
what the factors on disk give in float64. (The output itself is rounded to bfloat16 in every path alike, in bare PEFT
too; that noise would hide the fault.)
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from chexreason.model.adapters import AdaptedLinear, attach_lora, read_card, save_adapter, unchanging
from chexreason.model.generate import Sampling, sample
from chexreason.model.load import load_policy, resolve_source
from chexreason.model.logprobs import completion_scores
from tests.support.adapters import with_lora
from tests.support.families import FAMILIES, source_of

pytestmark = pytest.mark.slow

SMALL = (1e-3, 3e-4)  # root mean square of B
IDS = torch.arange(5, 65).reshape(3, 20)


@functools.cache
def loaded(name: str, quantise: str | None = None, dtype: str = "bfloat16"):
    return load_policy(source_of(name), dtype=dtype, quantise=quantise)


@pytest.fixture(params=FAMILIES)
def policy(request):
    return copy.deepcopy(loaded(request.param))


def chain(policy, folder, rms, *, n: int = 1):
    """Folders of ``n`` adapters, each trained upon the last: of ranks 4 and 2, of scales 2 and 3."""
    folders: list[str] = []
    for k, (r, alpha) in enumerate(((4, 8), (2, 6))[:n]):
        last = load_policy(policy.source, dtype="bfloat16", adapters=folders) if folders else copy.deepcopy(policy)
        with_lora(last, k, r=r, alpha=alpha)
        for name, parameter in last.named_parameters():
            if "lora_B" in name and parameter.requires_grad:
                parameter.data.mul_(rms / 0.05)
        folders = [str(folder / f"{k}")]
        save_adapter(last, folders[0], {})
    return folders


def added(layer, bare, x):
    """What ``layer`` adds to the projection ``bare`` of ``x``: by its weights, or beside them, which are then muted."""
    if not hasattr(layer, "base_layer"):
        return x.double() @ (layer.weight.double() - bare.weight.double()).T
    hook = layer.base_layer.register_forward_hook(lambda *given: torch.zeros_like(given[-1]))
    with torch.no_grad():
        change = layer(x).double()
    hook.remove()
    return change


def error(policy, bare, folder) -> float:
    """How far what the policy adds to the projections of ``bare`` is from what the adapter of ``folder`` should add."""
    factors, config = load_file(f"{folder}/adapter_model.safetensors"), read_config(folder)
    found, wanted = [], []
    torch.manual_seed(0)
    for key in (k for k in sorted(factors) if "lora_A" in k):
        name = key.removeprefix("base_model.model.").partition(".lora_A")[0]
        down, up = factors[key].double(), factors[key.replace("lora_A", "lora_B")].double()
        x = torch.randn(64, down.shape[1], dtype=torch.bfloat16)
        found.append(added(policy.base.get_submodule(name), bare.base.get_submodule(name), x).flatten())
        wanted.append((x.double() @ down.T @ up.T * config["lora_alpha"] / config["r"]).flatten())
    ours, oracle = torch.cat(found), torch.cat(wanted)
    return float((ours - oracle).norm() / oracle.norm())


def read_config(folder) -> dict:
    return json.loads((Path(folder) / "adapter_config.json").read_text())


@pytest.mark.parametrize("quantise", [None, "nf4"])
@pytest.mark.parametrize("rms", SMALL)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_small_adapter_has_its_whole_effect_in_bfloat16(name, rms, quantise, tmp_path, record_property):
    bare = loaded(name, quantise)
    (folder,) = chain(bare, tmp_path, rms)
    policy = load_policy(bare.source, dtype="bfloat16", quantise=quantise, adapters=[folder]).eval()
    off = error(policy, bare, folder)
    record_property("said", f"{name} {quantise or 'bfloat16'}, B of {rms:g}: an adapter's effect is off by {off:.2%}")
    assert off < 0.02
    with torch.autocast("cpu", torch.bfloat16):  # as trainer.precision=bf16-mixed would have it
        assert error(policy, bare, folder) == off
    with unchanging(policy):  # as it answers
        assert error(policy, bare, folder) == off


def test_the_measure_sees_what_merging_into_bfloat16_loses(policy, tmp_path, record_property):
    for rms, least in zip(SMALL, (0.15, 0.4), strict=True):
        (folder,) = chain(policy, tmp_path / str(rms), rms)
        lossy = copy.deepcopy(policy)
        lossy.model = PeftModel.from_pretrained(lossy.model, folder).merge_and_unload()
        off = error(lossy, policy, folder)
        record_property("said", f"{policy.source} merged in bfloat16, B of {rms:g}: off by {off:.0%}")
        assert off > least


def test_two_in_a_chain_have_their_whole_effect(policy, tmp_path):
    (folder,) = chain(policy, tmp_path, 1e-3, n=2)
    whole = load_policy(policy.source, dtype="bfloat16", adapters=[folder])
    assert error(whole, policy, folder) < 0.02


def scores(policy, images, **how):
    prompts = policy.encode(images, ["one", "two", "three"])
    with torch.no_grad():
        return completion_scores(policy, prompts, IDS, torch.ones_like(IDS), **how).logp


def drawn(policy, images):
    prompts = policy.with_features(policy.encode(images, ["one", "two", "three"]))
    return prompts, sample(policy, prompts, Sampling(12, 0.8), keys=[(k,) for k in range(3)])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", FAMILIES)
def test_training_evaluation_reference_and_bare_peft_are_one_policy_to_the_bit(name, dtype, images, tmp_path):
    trained = with_lora(copy.deepcopy(loaded(name, dtype=dtype)), 1, dropout=0.1).eval()
    kept, (_, validation) = scores(trained, images), drawn(trained, images)
    save_adapter(trained, tmp_path / "sft", {"prompt": "p"})
    assert read_card(tmp_path / "sft")["prompt"] == "p"
    assert [path.name for path in tmp_path.iterdir()] == ["sft"]  # no staging folder is left
    evaluated = load_policy(trained.source, dtype=dtype, adapters=[str(tmp_path / "sft")]).eval()
    assert torch.equal(scores(evaluated, images), kept)
    assert torch.equal(drawn(evaluated, images)[1].logp, validation.logp)
    attach_lora(evaluated, r=2, alpha=6, dropout=0.5)
    with evaluated.reference():
        assert torch.equal(scores(evaluated, images), kept)
    start = scores(evaluated.train(), images, shared=False)  # dropout is on the new adapter alone, which adds nothing
    near = {"atol": 1e-5 if dtype == "float32" else 0.05, "rtol": 0}
    torch.testing.assert_close(start, scores(trained, images, shared=False), **near)
    bare = AutoModelForImageTextToText.from_pretrained(resolve_source(trained.source), dtype=getattr(torch, dtype))
    trained.model = PeftModel.from_pretrained(bare, str(tmp_path / "sft")).eval()
    assert torch.equal(scores(trained, images), kept)


def test_a_chain_is_exported_as_the_policy_that_was_trained(policy, images, tmp_path, record_property):
    (folder,) = chain(policy, tmp_path, 5e-2)
    second = load_policy(policy.source, dtype="bfloat16", adapters=[folder]).eval()
    first = scores(second, images)
    kept = scores(with_lora(second, 2, r=2, alpha=6).eval(), images)
    with second.reference():
        assert torch.equal(scores(second, images), first)
    assert min((first - scores(policy, images)).abs().max(), (kept - first).abs().max()) > 0.1
    prompts, rollout = drawn(second, images)
    again = completion_scores(second, prompts, rollout.ids, rollout.mask, temperature=0.8).logp.detach()
    gap = float((again - rollout.logp).abs().sum() / rollout.mask.sum())
    record_property("said", f"{policy.source} in bfloat16, rollout against gradient pass: {gap:.4f} a token")
    assert gap < 0.03
    save_adapter(second, tmp_path / "grpo", {})
    assert (read_config(tmp_path / "grpo")["r"], read_config(tmp_path / "grpo")["lora_alpha"]) == (6, 6)
    whole = load_policy(policy.source, dtype="bfloat16", adapters=[str(tmp_path / "grpo")]).eval()
    assert torch.equal(scores(whole, images), kept)
    both = load_policy(policy.source, dtype="bfloat16", adapters=[folder, str(tmp_path / "grpo")])  # twice the first
    assert {sum(layer.r.values()) for layer in both.modules() if isinstance(layer, AdaptedLinear)} == {10}
    assert error(both, policy, folder) > 0.9
    policy.model = PeftModel.from_pretrained(policy.model, str(tmp_path / "grpo")).eval()
    assert torch.equal(scores(policy, images), kept)


def test_value_and_gradient_are_those_of_peft_with_dropout_in_a_chain(gemma, tmp_path):
    save_adapter(with_lora(gemma, 1), tmp_path / "sft", {})
    policy = with_lora(
        load_policy(gemma.source, dtype="float32", adapters=[str(tmp_path / "sft")]), 2, r=2, dropout=0.3
    )
    layer = next(m for m in policy.train().modules() if isinstance(m, AdaptedLinear))
    x, found = torch.randn(5, layer.in_features), []
    for forward in (AdaptedLinear.forward, Linear.forward):
        torch.manual_seed(0)
        weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        y = forward(layer, x)
        found.append([y, *torch.autograd.grad(y.square().sum(), weights)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    assert all(p.dtype == torch.float32 for n, p in policy.named_parameters() if "lora_" in n)


def test_targets_other_than_the_earlier_adapters_are_refused_before_training(gemma, tmp_path):
    attach_lora(gemma, r=4, targets=r".*language_model.*q_proj")
    save_adapter(gemma, tmp_path / "a", {})
    policy = load_policy(gemma.source, dtype="float32", adapters=[str(tmp_path / "a")])
    with pytest.raises(ValueError, match=r"reach different modules, e.g. .*set adapter\.targets as the earlier ones"):
        attach_lora(policy)
    config = read_config(tmp_path / "a") | {"use_dora": True, "rank_pattern": {"q_proj": 8}}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "a" / "chexreason.json").unlink()  # of another origin
    with pytest.raises(ValueError, match=r"no plain LoRA \(use_dora, rank_pattern in adapter_config.json\)"):
        load_policy(gemma.source, dtype="float32", adapters=[str(tmp_path / "a")])
