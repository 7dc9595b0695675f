"""What is handed to vLLM and what is made of its answers, with a stand-in: this proves nothing about vLLM itself.

The stand-in expands prompts with the model's own processor and answers with tokens that depend on the seed alone.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from chexreason.data.batches import Batch, load_study
from chexreason.model import vllm_engine
from chexreason.model.adapters import keep_adapter, save_adapter
from chexreason.model.generate import SHARED_PREFIX, Sampling, sample
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy
from chexreason.model.vllm_engine import VllmEngine, seed_of
from chexreason.types import Sample
from tests.support.adapters import with_lora

GROUP = 2
SAMPLING = Sampling(5, temperature=0.8, top_p=0.95, top_k=40)


class StandIn:
    """Records what it is given; ``bare`` is the base model it would have loaded."""

    bare: Policy

    def __init__(self, **options) -> None:
        self.options, self.calls = options, []

    def generate(self, prompts, params, lora_request, use_tqdm):
        self.calls.append(SimpleNamespace(prompts=prompts, params=params, adapter=lora_request))
        folder = Path(lora_request.path)
        self.siblings = sorted(p.name for p in folder.parent.iterdir())
        return [self._answer(prompt, one) for prompt, one in zip(prompts, params, strict=True)]

    def _answer(self, prompt, params):
        text = self.bare.tokenizer.decode(prompt["prompt_token_ids"])
        image = prompt["multi_modal_data"]["image"]
        expanded = self.bare.processor(text=[text], images=[[image]], add_special_tokens=False)["input_ids"][0]
        ids = [20 + params.seed % 50] * (params.seed % 4)
        ids += params.stop_token_ids[:1] if params.seed % 3 else [33]
        steps = [{token: SimpleNamespace(logprob=-0.25 * (t + 1))} for t, token in enumerate(ids)]
        completion = SimpleNamespace(token_ids=tuple(ids), logprobs=steps)
        return SimpleNamespace(prompt_token_ids=torch.as_tensor(expanded).tolist(), outputs=[completion])


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams = StandIn, lambda **fields: SimpleNamespace(**fields)
    request.LoRARequest = lambda name, number, path: SimpleNamespace(name=name, number=number, path=path)
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def batch_of(policy: Policy, studies, n: int = 2) -> Batch:
    samples = tuple(Sample(study, f"Describe the film {'closely ' * i}.") for i, study in enumerate(studies[:n]))
    return Batch(samples, policy.encode([load_study(s.study) for s in samples], [s.prompt for s in samples]))


def keys_of(batch: Batch, step: int = 0):
    return [(7, step, sample.study.study_id, k) for sample in batch.samples for k in range(GROUP)]


def draw(engine: VllmEngine, policy: Policy, batch: Batch, step: int = 0, sampling: Sampling = SAMPLING):
    return engine.draw(policy, batch, batch.prompts, sampling, group_size=GROUP, keys=keys_of(batch, step))


@pytest.fixture
def ready(gemma, studies):
    """A policy with an adapter under training, and a batch; the stand-in needs the processor alone."""
    StandIn.bare = gemma
    return with_lora(gemma, 1), batch_of(gemma, studies)


@pytest.mark.slow
def test_prompts_are_the_policys_own_with_one_placeholder_each(policy, studies):
    StandIn.bare, batch, engine = policy, batch_of(with_lora(policy, 1), studies), VllmEngine()
    draw(engine, policy, batch)  # it refuses a prompt that expands to anything else
    first, second, third, _ = engine._llm.calls[0].prompts
    assert first == second
    assert first != third
    assert len(first["prompt_token_ids"]) < int(batch.prompts.attention_mask[0].sum()) - 4


@pytest.mark.slow
def test_a_prompt_read_otherwise_is_refused(ready):
    policy, batch = ready
    ids = batch.prompts.input_ids.clone()
    ids[1, -1] += 1
    other = dataclasses.replace(batch, prompts=dataclasses.replace(batch.prompts, input_ids=ids))
    with pytest.raises(RuntimeError, match=r"study s1: vLLM read a prompt of \d+ tokens"):
        draw(VllmEngine(), policy, other)


@pytest.mark.slow
def test_the_adapter_over_its_parents_goes_over_by_file(gemma, studies, tmp_path):
    StandIn.bare = copy.deepcopy(gemma)
    parent = str(tmp_path / "sft")
    save_adapter(with_lora(gemma, 1), parent, {})
    bare = copy.deepcopy(StandIn.bare.model)
    policy = with_lora(Policy(keep_adapter(bare, parent, "earlier0"), gemma.processor, ""), 2)
    batch, engine = batch_of(policy, studies), VllmEngine()
    drawn = draw(engine, policy, batch)
    folder = engine._llm.calls[0].adapter.path
    served = Policy(keep_adapter(StandIn.bare.model, folder, "earlier0"), gemma.processor, "")
    theirs = completion_scores(served, batch.prompts, drawn.ids, drawn.mask, group_size=GROUP, temperature=0.8)
    ours = completion_scores(policy, batch.prompts, drawn.ids, drawn.mask, group_size=GROUP, temperature=0.8)
    torch.testing.assert_close(ours.logp.detach(), theirs.logp.detach(), atol=1e-4, rtol=0)
    assert engine._llm.options["max_lora_rank"] == 8  # 4 + 4


@pytest.mark.slow
def test_every_rollout_hands_over_a_new_name_and_number_and_removes_the_old_folder(ready):
    policy, batch = ready
    engine = VllmEngine()
    for step in range(3):
        draw(engine, policy, batch, step)
        assert engine._llm.siblings == [f"rollout{step + 1}"]
    adapters = [call.adapter for call in engine._llm.calls]
    assert [a.number for a in adapters] == [1, 2, 3]
    assert len({a.name for a in adapters}) == len({a.path for a in adapters}) == 3
    folder = Path(adapters[-1].path)
    assert folder.is_dir()
    engine._folder.cleanup()
    assert not folder.exists()


@pytest.mark.slow
def test_seeds_are_a_function_of_the_key_alone(ready):
    policy, batch = ready
    engine = VllmEngine()
    draw(engine, policy, batch)
    draw(engine, policy, batch)
    draw(engine, policy, batch, step=1)
    seeds = [[params.seed for params in call.params] for call in engine._llm.calls]
    assert seeds[0] == seeds[1] == [seed_of(key) for key in keys_of(batch)]
    assert len({*seeds[0], *seeds[2]}) == 8
    assert all(0 <= seed < 2**63 for row in seeds for seed in row)
    assert seed_of((7, 0, "s0", 0)) == 3931133812248315916  # a change of this number changes every rollout


@pytest.mark.slow
def test_what_is_drawn_from_is_what_the_policy_would_draw_from(ready):
    policy, batch = ready
    engine = VllmEngine()
    draw(engine, policy, batch)
    params = engine._llm.calls[0].params[0]
    assert params.stop_token_ids == policy.stop_ids
    assert params.ignore_eos
    assert set(params.logit_bias) == set(policy.banned_ids)
    assert set(params.logit_bias.values()) == {-100.0}
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (5, 0.8, 0.95, 40)
    assert engine._llm.options["logprobs_mode"] == "processed_logprobs"
    assert engine._llm.options["dtype"] == "float32"


@pytest.mark.slow
def test_ragged_answers_are_padded_on_the_right(ready):
    policy, batch = ready
    drawn = draw(VllmEngine(), policy, batch)
    seeds = [seed_of(key) for key in keys_of(batch)]
    lengths = [seed % 4 + 1 for seed in seeds]
    assert len(set(lengths)) > 1
    assert drawn.mask.tolist() == [[int(t < n) for t in range(max(lengths))] for n in lengths]
    assert (drawn.ids[drawn.mask == 0] == policy.pad_id).all()
    assert drawn.finished.tolist() == [seed % 3 != 0 for seed in seeds]
    steps = -0.25 * torch.arange(1.0, max(lengths) + 1)
    torch.testing.assert_close(drawn.sampled_logp, steps * drawn.mask)
    assert drawn.logp is None


@pytest.mark.parametrize(
    ("what", "sampling", "message"),
    [
        ("greedy", Sampling(5, temperature=0.0), "a temperature of 0.01 to 2, not 0.0"),
        ("too long", Sampling(5000, temperature=0.8), "do not fit rollout.max_model_len=4096"),
        ("ranks", SAMPLING, "this run has 2"),
        ("quantised", SAMPLING, "model.quantise=nf4"),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_it_starts(gemma, studies, monkeypatch, what, sampling, message):
    batch, engine = batch_of(gemma, studies), VllmEngine()
    if what == "ranks":
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    if what == "quantised":
        monkeypatch.setattr(vllm_engine, "precision_of", lambda model: "nf4")
    with pytest.raises(ValueError, match=message):
        draw(engine, gemma, batch, sampling=sampling)
    assert engine._llm is None


def test_rank_has_room_or_is_refused():
    assert [vllm_engine._room_for(rank) for rank in (4, 8, 33, 512)] == [8, 8, 64, 512]
    with pytest.raises(ValueError, match="rank 513"):
        vllm_engine._room_for(513)


def test_without_vllm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'chexreason\[vllm\]'"):
        VllmEngine()


@pytest.mark.slow
def test_the_shared_prefix_engine_is_the_sampler(gemma, studies):
    batch = batch_of(gemma, studies)
    ours = SHARED_PREFIX.draw(gemma, batch, batch.prompts, SAMPLING, group_size=GROUP, keys=keys_of(batch))
    plain = sample(gemma, batch.prompts, SAMPLING, group_size=GROUP, keys=keys_of(batch))
    assert torch.equal(ours.ids, plain.ids)
    assert torch.equal(ours.sampled_logp, plain.sampled_logp)
