"""The reward after as many GRPO steps of ours and of TRL 1.16, from one SFT adapter, on phantoms: three seeds.

    python -m benchmarks.grpo_reward out/demo/sft/seed0/adapter/best

Same studies, reward, objective, LoRA, optimiser, learning rate and temperature; each side draws its own completions and
order of studies. Afterwards one and the same sampler answers the training studies under either adapter, and the mean
reward is what counts. Rows are kept in ``out/bench/grpo_reward.json``: a run that is there is not made again. The last
row compares the sides: ``ours`` and ``peer`` are means over seeds, the interval is of their paired difference.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats

from benchmarks.grpo_sides import ALPHA, NORM, RANK, TOP_P, trl_trainer, update
from benchmarks.measure import FOLDER, Row, row
from chexreason.confdir import confdir
from chexreason.data.batches import Batch
from chexreason.files import write_json
from chexreason.grpo.objective import ObjectiveSpec
from chexreason.grpo.rollout import RolloutSpec, collect
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.adapters import attach_lora
from chexreason.model.generate import Sampling, read_completions, sample
from chexreason.model.load import load_policy
from chexreason.model.logprobs import study_chunks
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat, Grammar, parse
from chexreason.prompts import load_prompt, render
from chexreason.rewards.base import score
from chexreason.rewards.hard import HardReward
from chexreason.types import Completion, Sample, Study
from tools.tiny_models.phantom_stream import stream, truth

OUT = FOLDER / "grpo_reward.json"
SIDES, SEEDS, STEPS = ("ours", "peer"), (0, 1, 2), 12
STUDIES, BATCH, GROUP, TOKENS = 32, 8, 8, 96
RATE, TEMPERATURE = 2e-3, 0.8
SPEC = ObjectiveSpec("bench", "constant", "none", 0.15, 0.22, 0.04, "k3", "token", False, 1)
REWARD = HardReward(min_length=30)
SAMPLING = Sampling(TOKENS, TEMPERATURE, TOP_P)
PROMPT = load_prompt("free_reasoning", Path(confdir()) / "prompt")
ANSWER_FORMAT = AnswerFormat(CHEXPERT14, Grammar(PROMPT.grammar))
TEXT = render(PROMPT, CHEXPERT14)


def phantoms() -> tuple[list[Study], list[Image.Image]]:
    """The studies both sides learn from, of a seed no demo uses."""
    films = list(islice(stream(7, ("a",)), STUDIES))
    studies = [truth(phantom, f"s{i}") for i, (_, phantom) in enumerate(films)]
    return studies, [Image.fromarray(pixels).convert("RGB") for pixels, _ in films]


def start(adapter: str) -> Policy:
    """The SFT policy, frozen."""
    return load_policy("tiny:tiny_gemma3", dtype="float32", adapters=[adapter])


def ours(adapter: str, seed: int, steps: int) -> Policy:
    """Our steps, as ``GRPOModule`` makes them."""
    policy, (studies, images) = start(adapter), phantoms()
    torch.manual_seed(seed)
    attach_lora(policy, r=RANK, alpha=ALPHA, dropout=0.0)
    policy.train()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    order: list[int] = []
    spec = RolloutSpec(ANSWER_FORMAT, SAMPLING, GROUP, REWARD, SPEC, seed, micro_studies=BATCH // 2)
    for step in range(steps):
        order = order or torch.randperm(STUDIES).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        batch = Batch(tuple(Sample(studies[i], TEXT) for i in chosen), _encode(policy, images, chosen))
        update(policy, collect(policy, batch, spec, step), spec, optimizer)
    return policy


def peer(adapter: str, seed: int, steps: int) -> Policy:
    """TRL's steps, by its own trainer."""
    policy, (studies, images) = start(adapter), phantoms()
    user = [{"role": "user", "content": TEXT}]
    torch.manual_seed(seed)
    trainer = trl_trainer(
        policy.base,
        policy.processor,
        partial(_their_reward, policy, studies),
        [{"prompt": user, "image": image, "study": i} for i, image in enumerate(images)],
        SPEC,
        learning_rate=RATE,
        per_device_train_batch_size=BATCH * GROUP // 2,
        gradient_accumulation_steps=2,
        num_generations=GROUP,
        max_completion_length=TOKENS,
        max_steps=steps,
        seed=seed,
        temperature=TEMPERATURE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=NORM,
        save_strategy="no",
        bf16=False,
        log_completions=False,
    )
    trainer.train()
    policy.model = trainer.model
    return policy


def _their_reward(
    policy: Policy, studies: Sequence[Study], completion_ids: Sequence[list[int]], study: Sequence[int], **_: Any
) -> list[float]:
    """Our reward of TRL's completions, from their ids: TRL's texts lack the special tokens."""
    rows = [studies[i] for i in study]
    stops = set(policy.stop_ids)
    texts = [policy.tokenizer.decode([t for t in ids if t not in stops]) for ids in completion_ids]
    found = [
        Completion(row.study_id, text, parse(text, CHEXPERT14, PROMPT.grammar), len(ids), ids[-1] in stops)
        for row, text, ids in zip(rows, texts, completion_ids, strict=True)
    ]
    return [float(total) for total in score(REWARD, found, rows, CHEXPERT14)[0]]


def mean_reward(policy: Policy) -> float:
    """Of sampled answers to all studies; the random numbers are the same for every policy."""
    studies, images = phantoms()
    totals = []
    for some in study_chunks(STUDIES, BATCH):
        rows = [studies[i] for i in some for _ in range(GROUP)]
        keys = [("after", studies[i].study_id, k) for i in some for k in range(GROUP)]
        sampled = sample(policy, _encode(policy, images, some), SAMPLING, group_size=GROUP, keys=keys)
        found = read_completions(policy, sampled, [studies[i] for i in some], ANSWER_FORMAT)
        totals.append(score(REWARD, found, rows, CHEXPERT14)[0])
    return float(torch.cat(totals).mean())


def _encode(policy: Policy, images: Sequence[Image.Image], chosen: Sequence[int]) -> Any:
    return policy.encode([images[i] for i in chosen], [TEXT] * len(chosen))


def run(adapter: str, side: str, seed: int, steps: int) -> Row:
    """Train one side, and what it earns before and after."""
    before, began = mean_reward(start(adapter)), time.process_time()
    policy = {"ours": ours, "peer": peer}[side](adapter, seed, steps)
    spent = time.process_time() - began
    after = mean_reward(policy)
    facts = {"adapter": adapter, "steps": steps, "side": side, "seed": seed}
    return facts | {"before": before, "after": after, "cpu_seconds": spent}


def compared(rows: Sequence[Row]) -> Row:
    """Both sides' mean reward, and the 95 % interval (Student's t over seeds) of ours minus theirs."""
    after = {side: np.array([r["after"] for r in rows if r["side"] == side]) for side in SIDES}
    gaps = after["ours"] - after["peer"]
    reach = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    low, high = gaps.mean() - reach, gaps.mean() + reach
    mine, theirs = (float(after[side].mean()) for side in SIDES)
    case = f"reward after {rows[0]['steps']} steps, {len(gaps)} seeds (difference {low:.3f} to {high:.3f})"
    return row(case, "mean reward", mine, theirs, mine / theirs, 1.0)


def main() -> None:
    """Make the runs that are missing, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="an SFT adapter of tiny_gemma3")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(OUT.read_text()) if OUT.exists() else []
    wanted = {"adapter": args.adapter, "steps": args.steps}
    mine = [r for r in rows if "side" in r and wanted.items() <= r.items()]
    for seed in SEEDS:
        for side in SIDES:
            if any((r["side"], r["seed"]) == (side, seed) for r in mine):
                continue
            found = run(args.adapter, side, seed, args.steps)
            print(f"{side:<5} seed {seed}: reward {found['before']:.3f} -> {found['after']:.3f}", flush=True)
            mine.append(found)
            write_json(OUT, mine)
    summary = compared(mine)
    print(f"{summary['case']}: ours {summary['ours']:.3f}, TRL {summary['peer']:.3f}")
    write_json(OUT, [*mine, summary])


if __name__ == "__main__":
    main()
