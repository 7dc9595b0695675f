"""The memory plan against what the steps take: torch's CPU allocator in a process of its own, several sizes.

    make bench-memory

Prints a table and writes ``out/bench/memory.json``. ``ours`` is the plan, ``peer`` the measured peak (of three runs'
median), ``bar`` the ratio allowed either way. The resident size of the process is printed beside it: it holds the
libraries as well.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForImageTextToText

from benchmarks.measure import FOLDER, printed_by, row
from chexreason.files import write_json
from chexreason.model.adapters import attach_lora
from chexreason.model.generate import Sampling, sample
from chexreason.model.policy import Policy
from chexreason.preflight.memory import WorstBatch, endless, last_token, rehearse
from chexreason.preflight.meta_model import blank_policy, blank_prompts

# stage, studies, completions of each, words of the prompt, answer tokens
CASES = (("sft", 1, 1, 100, 100), ("sft", 4, 1, 300, 200), ("grpo", 2, 4, 150, 100), ("rollout", 4, 4, 150, 40))
MODELS = ("tiny_gemma3", "tiny_qwen2_5_vl")
BAR, REPEATS = 0.15, 3


def trained(policy: Policy) -> Policy:
    """The policy with an adapter, in training mode."""
    attach_lora(policy, r=16, alpha=32, dropout=0.1)
    policy.model.train()
    return policy


def planned(model: str, stage: str, studies: int, group: int, text: int, answer: int) -> int:
    """Peak bytes by rehearsal."""
    policy = trained(blank_policy(f"tiny:{model}", dtype="float32"))
    prompts = blank_prompts(policy, studies, text_tokens=text, n_image_tokens=16)
    if stage == "rollout":
        return sum(rehearse(policy, partial(last_token, policy, prompts, Sampling(answer), group), 8.0).values())
    return sum(rehearse(policy, lambda _: step(policy, prompts, group, answer, stage), 8.0).values())


def step(policy: Policy, prompts, group: int, answer: int, stage: str) -> None:
    """One forward and backward pass of all studies."""
    WorstBatch(0, 0, answer, group, 0, stage == "grpo", {}, {}).update(policy, prompts, len(prompts))


def work(model: str, stage: str, studies: int, group: int, text: int, answer: int) -> None:
    """Two updates for real, and a rollout after them where that is the stage."""
    blank = blank_policy(f"tiny:{model}", dtype="float32")
    weights = AutoModelForImageTextToText.from_config(blank.base.config, dtype=torch.float32)
    policy = trained(Policy(weights.requires_grad_(False), blank.processor, model))
    prompts = blank_prompts(policy, studies, text_tokens=text, n_image_tokens=16)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
    few = stage == "rollout"  # its updates only leave gradients and optimiser state behind
    for _ in range(2):
        step(policy, prompts.select([0]) if few else prompts, 1 if few else group, 2 if few else answer, stage)
        optimizer.step()
    if few:
        keys = [(k,) for k in range(studies * group)]
        with endless(policy):
            sample(policy, replace(prompts), Sampling(answer, 0.8, 0.95), group_size=group, keys=keys)


def measured(*case: object) -> tuple[int, int]:
    """Peak bytes of the allocator and resident size, in a process of its own."""
    allocator, resident = printed_by(__spec__.name, *case).split()[-2:]
    return int(allocator), int(resident)


def measure_here(model: str, stage: str, *sizes: str) -> None:
    """Print both peaks of one case run in this process."""
    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work(model, stage, *map(int, sizes))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = [e["args"] for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    print(max(e["Total Allocated"] for e in events if e["Device Type"] == 0), resident)


def main() -> None:
    """Plan, measure, print, write."""
    rows = []
    for model in MODELS:
        for case in CASES:
            runs = [measured(model, *case) for _ in range(REPEATS)]
            ours, peer = planned(model, *case), int(statistics.median(peak for peak, _ in runs))
            name = f"{model} {case[0]} {case[1]} x {case[2]}, {case[3]} + {case[4]} tokens"
            rows.append(row(name, "bytes", ours, peer, ours / peer, BAR))
            size = f"{ours / 2**20:>8.1f} planned {peer / 2**20:>8.1f} measured"
            print(f"{name:<52}{size} MiB {ours / peer:>6.3f} (resident {runs[0][1] / 2**20:.0f} MiB)", flush=True)
    write_json(FOLDER / "memory.json", rows)


if __name__ == "__main__":
    measure_here(*sys.argv[1:]) if len(sys.argv) > 1 else main()
