"""The memory plan: a rehearsal without numbers books exactly what the real step books, and close to what it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_iter
from transformers import AutoModelForImageTextToText

from chexreason.confdir import confdir
from chexreason.model.adapters import attach_lora, blank_adapter
from chexreason.model.family import Family
from chexreason.model.generate import Sampling, sample
from chexreason.model.load import KEPT
from chexreason.model.policy import Policy
from chexreason.preflight.memory import (
    GIB,
    MemoryPlan,
    Stage,
    WorstBatch,
    endless,
    in_four_bits,
    largest_of,
    last_token,
    rehearse,
)
from chexreason.preflight.meta_model import (
    NoProcessor,
    blank_policy,
    blank_prompts,
    count_text_tokens,
    read_config,
)
from chexreason.preflight.rehearsal import MEMORY_KINDS, Rehearsal
from tests.support.families import FAMILIES, source_of

SIZES = ((2, 1, 40, 30, False), (2, 4, 40, 60, True))  # studies, group, text, answer, shared prefix


class Counted(Rehearsal):
    """The same books over real tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, torch.Tensor):
                self._book(tensor, self._kind or self._guess(tensor))
        return output


def real(name: str) -> Policy:
    config = blank_policy(source_of(name), dtype="float32").base.config
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.requires_grad_(False)
    return with_adapter(Policy(model, NoProcessor(config.get_text_config().vocab_size), name))


def with_adapter(policy: Policy) -> Policy:
    attach_lora(policy, r=8, alpha=16, dropout=0.1)
    policy.model.train()
    return policy


def blank(name: str) -> Policy:
    return with_adapter(blank_policy(source_of(name), dtype="float32"))


def prompts_of(policy: Policy, n: int, text: int):
    return blank_prompts(policy, n, text_tokens=text, n_image_tokens=16)


def step(policy: Policy, prompts, size) -> None:
    studies, group, text, answer, shared = size
    WorstBatch(text, 16, answer, group, 0, shared, {}, {}).update(policy, prompts, studies)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", SIZES, ids=("sft", "grpo"))
def test_a_rehearsal_books_what_the_real_step_books_to_the_byte(name, size):
    books = []
    for policy, kind in ((blank(name), Rehearsal), (real(name), Counted)):
        prompts = prompts_of(policy, size[0], size[2])
        weights = [*policy.model.parameters(), *policy.model.buffers()]
        with kind({"weights": weights}, policy.base.config.get_text_config().vocab_size) as book:
            step(policy, prompts, size)
        books.append(book.peak)
    assert books[0] == books[1]
    assert min(books[0][kind] for kind in ("weights", "activations")) > 0


def allocated(work, path: Path) -> int:
    """Peak bytes torch's CPU allocator handed out while ``work`` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    seen.export_chrome_trace(str(path))
    events = [e["args"] for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    return max(e["Total Allocated"] for e in events if e["Device Type"] == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stage", ["sft", "grpo", "rollout"])
def test_a_plan_is_within_15_percent_of_the_measured_peak(name, stage, tmp_path):
    size = SIZES[0 if stage == "sft" else 1]
    studies, group, text, answer, _ = size
    sampling = Sampling(answer, 0.8, 0.95)

    def work() -> None:
        policy = real(name)
        prompts = prompts_of(policy, studies, text)
        optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
        for _ in range(2):
            step(policy, prompts if stage != "rollout" else prompts.select([0]), size if stage != "rollout" else SMALL)
            optimizer.step()
        if stage == "rollout":
            with endless(policy):
                sample(policy, prompts, sampling, group_size=group, keys=[(k,) for k in range(studies * group)])

    policy = blank(name)
    prompts = prompts_of(policy, studies, text)
    works = [lambda _: step(policy, prompts, size)]
    if stage == "rollout":  # the peak of a model this small may be the step before it
        works = [lambda book: last_token(policy, prompts, sampling, group, book)]
        works += [lambda _: step(policy, prompts.select([0]), SMALL)]
    planned = max(sum(rehearse(policy, each, 8.0).values()) for each in works)
    measured = allocated(work, tmp_path / "trace.json")
    assert planned == pytest.approx(measured, rel=0.15)


SMALL = (1, 1, 40, 2, False)


@pytest.mark.slow
def test_the_cache_is_counted_by_its_closed_form():
    policy = blank("tiny_gemma3")
    text = policy.base.config.get_text_config()
    prompts = prompts_of(policy, 2, 40)
    peak = rehearse(policy, lambda book: last_token(policy, prompts, Sampling(50), 3, book), 8.0)
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    assert peak["cache"] == 2 * 3 * (prompts.input_ids.shape[1] + 50) * per_token


@pytest.mark.slow
def test_weights_adapters_and_state_are_their_own_sizes():
    policy = blank("tiny_qwen2_5_vl")
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    prompts = prompts_of(policy, 1, 40)
    peak = rehearse(policy, lambda _: step(policy, prompts, SMALL), 8.0)
    assert (peak["adapters"], peak["gradients"], peak["optimiser"]) == (4 * trainable, 4 * trainable, 8 * trainable)
    assert 0.5 * peak["weights"] < in_four_bits(policy, peak)["weights"] < 0.8 * peak["weights"]  # the tower stays
    assert all(p.grad is None for p in policy.parameters())
    chain = blank_policy("tiny:tiny_qwen2_5_vl", dtype="float32")
    blank_adapter(chain, 24)  # three times as large, frozen
    kept = rehearse(with_adapter(chain), lambda _: step(chain, prompts, SMALL), 8.0)
    assert (kept["adapters"], kept["gradients"]) == (16 * trainable, 4 * trainable)
    assert kept["weights"] == peak["weights"]
    assert in_four_bits(chain, kept)["weights"] == in_four_bits(policy, peak)["weights"]  # adapters stay in 32 bits


@pytest.mark.slow
def test_checkpointing_trades_activations_away():
    peaks = []
    for on in (False, True):
        policy = with_adapter(blank_policy("tiny:tiny_gemma3", dtype="float32", gradient_checkpointing=on))
        prompts = prompts_of(policy, 2, 200)
        peaks.append(rehearse(policy, lambda _, p=policy, q=prompts: step(p, q, (2, 1, 200, 8, False)), 8.0))
    assert peaks[1]["activations"] < 0.5 * peaks[0]["activations"]


def stage_of(total: int, largest: int) -> Stage:
    return Stage("update", "phase.batch_size", 4, dict.fromkeys(MEMORY_KINDS, 0) | {"weights": total}, largest)


def test_a_plan_says_what_does_not_fit():
    fits = MemoryPlan("a device", GIB, (stage_of(GIB, 4),))
    assert fits.over() == []
    assert "phase.batch_size=4 (4)" in fits.table()
    short = MemoryPlan("a device", GIB, (stage_of(2 * GIB, 2),))
    assert len(short.over()) == 1
    assert short.shortage().endswith("update needs 2.00 of 1.00 GiB with phase.batch_size=4")


@pytest.mark.parametrize("studies", [1, 4, 30, 100])
@pytest.mark.parametrize("total", [lambda n: 100 + 10 * n, lambda n: max(500, 30 * n), lambda n: 100 + 300 * n**0.5])
def test_the_largest_batch_fits_and_one_study_more_does_not(total, studies):
    """Of a plan that bends too: where another moment becomes the peak, and where some of it is shared."""
    for capacity in (99, 155, 601, 1000):
        most = largest_of(lambda n: int(total(n)), studies, capacity)
        assert most == 0 or int(total(most)) <= capacity
        assert int(total(most + 1)) > capacity


@pytest.mark.slow
def test_in_four_bits_nothing_is_added_to_a_copy_of_the_weights():
    """In float32 a rollout adds the adapters to one, which was counted for 4 bits too: 4 studies fitted, and 23 do."""
    peaks = []
    for dtype in ("float32", "bfloat16"):
        policy = with_adapter(blank_policy("tiny:tiny_gemma3", dtype=dtype))
        prompts = prompts_of(policy, 1, 40)
        found = rehearse(policy, lambda book, p=policy, q=prompts: last_token(p, q, Sampling(9), 2, book), 8.0)
        peaks.append(in_four_bits(policy, found) | {"adapters": found["adapters"]})
    kept = 2 * sum(p.numel() for n, p in policy.base.named_parameters() if n.startswith(KEPT) or "embed" in n)
    assert peaks[0]["weights"] - peaks[1]["weights"] == pytest.approx(kept, rel=0.05)


def test_each_stage_is_measured_by_itself():
    """In a process of its own: what earlier tests freed stays with the allocator, and would count.

    Its parent is as large as what it measures: the peak of a parent is not that of its child.
    """
    script = "import torch; from chexreason.preflight.memory import peak_on\nfor mib in (60, 600, 60):\n"
    script += "    print(peak_on(torch.device('cpu'), lambda: torch.ones(mib * 2**18).sum(), ''))"
    parent = torch.ones(3 * 2**28)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    small, large, again = (int(size) / 2**20 for size in done.stdout.split())
    assert small < parent.nbytes / 2**20
    assert 400 < large - small < 700
    if os.access("/proc/self/clear_refs", os.W_OK):  # some containers keep it from their processes
        assert abs(again - small) < 100


def test_a_config_that_cannot_be_read_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FileNotFoundError, match=r"set model.source to a folder that holds it"):
        blank_policy(str(tmp_path), dtype="float32")


def test_the_papers_models_are_planned_without_a_network_and_others_say_what_is_missing(monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    caplog.set_level("INFO")
    for name, layers in (("medgemma_4b", 34), ("qwen2_5_vl_3b", 36), ("qwen3_vl_4b", 36)):
        source = yaml.safe_load(Path(confdir(), "model", f"{name}.yaml").read_text())["source"]
        assert read_config(source).get_text_config().num_hidden_layers == layers
        assert f"{source}: planned from the config.json that ships with chexreason" in caplog.text
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"google/medgemma-27b-it: its config cannot be read .*config\.json"):
        read_config("google/medgemma-27b-it")


def test_image_and_text_tokens_come_from_config_and_tokenizer():
    gemma, *qwens = ((p.family, p.base.config) for p in map(blank, FAMILIES))
    assert gemma[0].image_tokens(gemma[1], None) == 16
    with pytest.raises(ValueError, match=r"Family has no image_tokens, .* or set preflight=false"):
        Family().image_tokens(gemma[1], None)
    for family, config in qwens:
        assert family.image_tokens(config, 128 * 128) == 16
        with pytest.raises(ValueError, match=r"model\.max_pixels is not set"):
            family.image_tokens(config, None)
    assert count_text_tokens("tiny:tiny_gemma3", "Describe. " * 20) > count_text_tokens("tiny:tiny_gemma3", "Hi")
