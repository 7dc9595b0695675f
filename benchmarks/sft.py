"""Our SFT step against the SFTTrainer of TRL 1.16: same model, data, batch, LoRA and optimiser, steps in turns.

    make bench-sft

Prints a table and writes ``out/bench/sft.json``. The models have the shapes of Gemma 3 and Qwen2.5-VL with 1024 patches
and 256 image tokens, random weights, and float32: their speed is what is measured. A step makes the batch from films on
disk and prompts, and is forward, backward and update; "epoch 1" computes and keeps the frozen tower's features, "later
epochs" read them. Time is the CPU time of one thread, which other work on the machine disturbs least. Peak memory is
that of a process of its own for each side, over what it held before its first step. TRL scores the prompt's positions
too on a CPU, not on a GPU: its time without them is printed as well, their share counted from shapes. Its loss counts
the template's line break after the turn, ours does not: hence the gap between the curves.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measure, models
from benchmarks.measure import Row, row
from benchmarks.models import FAMILIES, TEXT, VOCABULARY
from chexreason.build.model import quiet
from chexreason.model.adapters import TARGETS, attach_lora
from chexreason.model.features import cache_films
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy
from chexreason.types import Sample, Study

Step = Callable[[], float]
SIDES = ("ours", "features", "peer")
SIZE = 512  # pixels: 1024 patches
BATCH, ROUNDS, MEMORY_STEPS = 2, 5, 2
LORA = {"r": 16, "alpha": 32}
PROMPT = "You are a radiologist. Read this frontal chest radiograph and list the findings. " * 3
ANSWER = "<think>The heart is enlarged and both costophrenic angles are blunt, no air in the pleura.</think>" * 3


@cache
def folder() -> Path:
    """Where the films lie, and what both sides write; removed at the end."""
    return Path(tempfile.mkdtemp())


@cache
def films() -> list[Path]:
    """A batch of grey noise, as files."""
    paths = [folder() / f"{i}.png" for i in range(BATCH)]
    for path, image in zip(paths, models.images(SIZE, BATCH), strict=True):
        image.save(path)
    return paths


def model(family: str) -> Any:
    """The model either side starts from."""
    if family == "gemma3":
        return models.model(family, SIZE)
    rope = {"mrope_section": [16, 24, 24], "rope_theta": 10000.0, "rope_type": "default"}
    return models.model(family, SIZE, text={"rope_parameters": rope}, tower={"fullatt_block_indexes": [2, 5]})


def ours(family: str, *, later: bool) -> Step:
    """Our step, as loader and ``SFTModule`` make it."""
    policy = Policy(model(family), models.processor(family, SIZE), "bench")
    torch.manual_seed(1)
    attach_lora(policy, **LORA, dropout=0.0)
    policy.train()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01)
    kept = Path(tempfile.mkdtemp(dir=folder()))
    collate = cache_films(policy, None, str(kept)).collate()
    studies = [Study(path.stem, path.stem, "noise", path, (), ()) for path in films()]
    items = [(Sample(study, PROMPT, ANSWER), 0.0) for study in studies]
    if later:
        policy.with_features(collate(items).prompts)

    def step() -> float:
        if not later:
            shutil.rmtree(kept)
        batch = collate(items)
        prompts = policy.with_features(batch.prompts)
        scores = completion_scores(policy, prompts, batch.answer_ids, batch.answer_mask, shared=False)
        loss = -scores.logp.sum() / batch.answer_mask.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def peer(family: str) -> Step:
    """The step of TRL's trainer, through its own collator and ``training_step``."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    user = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    assistant = [{"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}]
    rows = [{"images": [Image.open(path)], "prompt": user, "completion": assistant} for path in films()]
    args = SFTConfig(
        str(folder() / "trl"),
        per_device_train_batch_size=BATCH,
        max_length=None,
        learning_rate=1e-4,
        weight_decay=0.01,
        activation_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
    )
    torch.manual_seed(1)
    lora = LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], lora_dropout=0.0, target_modules=TARGETS)
    base, reader = model(family), models.processor(family, SIZE)
    trainer = SFTTrainer(base, args, train_dataset=Dataset.from_list(rows), processing_class=reader, peft_config=lora)
    trainer.current_gradient_accumulation_steps = 1  # its loop would set it
    optimizer = trainer.create_optimizer()
    batches = trainer.get_train_dataloader()

    def step() -> float:
        loss = trainer.training_step(trainer.model, dict(next(iter(batches))))
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def build(side: str, family: str) -> Step:
    """The step of one of ``SIDES``."""
    return peer(family) if side == "peer" else ours(family, later=side == "features")


def rows(family: str) -> Iterator[Row]:
    """The lines of one model; ``ratio`` is peer over ours for time (more is better), ours over peer for memory."""
    steps = {side: build(side, family) for side in SIDES}
    losses = {side: [step()] for side, step in steps.items()}  # the first warms up

    def timed(side: str) -> float:
        return measure.seconds(lambda: losses[side].append(steps[side]()), time.process_time)

    seconds = measure.in_turns({side: partial(timed, side) for side in SIDES}, ROUNDS)
    median = {side: statistics.median(values) for side, values in seconds.items()}
    millions = sum(p.numel() for p in model(family).parameters()) / 1e6
    case = f"{FAMILIES[family]}, {millions:.0f} M, batch {BATCH}"
    epochs = (("ours", "epoch 1", 1.0), ("features", "later epochs", 1.5))
    for side, name, bar in epochs:
        yield row(f"{case}, {name}", "CPU s/step", median[side], median["peer"], median["peer"] / median[side], bar)
    scored = prompt_scores_share(family, median["peer"])
    for side, name, _ in epochs:
        other = median["peer"] * (1 - scored)
        yield row(f"{case}, {name}, no prompt scored", "CPU s/step", median[side], other, other / median[side])
    megabytes = {side: float(measure.printed_by(__spec__.name, side, family)) / 1e6 for side in SIDES}
    for side, name, _ in epochs:
        mine, other = megabytes[side], megabytes["peer"]
        yield row(f"{case}, {name}: peak above idle", "MB", mine, other, mine / other, 0.7)
    gap = max(abs(a - b) / b for a, b in zip(losses["features"], losses["peer"], strict=True))
    yield row(f"{case}: loss of {ROUNDS + 1} steps, largest relative gap", "share", gap, bar=0.01)
    for side, name, _ in epochs:
        with FlopCounterMode(display=False) as counter:  # the CPU's attention kernel is not counted
            steps[side]()
        share = counter.get_total_flops() / median[side] / measure.matmul_rate()
        yield row(f"{case}, {name}: of matmul peak", "share", share)


def prompt_scores_share(family: str, seconds: float) -> float:
    """The part of TRL's step that goes into the vocabulary at prompt positions, at the speed of this machine's peak."""
    policy = Policy(model(family), models.processor(family, SIZE), "bench")
    image = Image.open(films()[0]).convert("RGB")
    prompt = policy.encode([image] * BATCH, [PROMPT] * BATCH).input_ids.numel()
    return (
        3 * 2 * prompt * TEXT["hidden_size"] * VOCABULARY / measure.matmul_rate() / seconds
    )  # forward, and again in backward


def main() -> None:
    """Measure, print, write."""
    quiet()
    torch.set_num_threads(1)
    try:
        if sys.argv[1:]:
            print(measure.extra_memory(build(*sys.argv[1:]), MEMORY_STEPS))
            return
        peak = row("this machine's matmul peak, float32", "GFLOP/s", measure.matmul_rate() / 1e9)
        measure.report("sft", chain([peak], *map(rows, FAMILIES)))
    finally:
        shutil.rmtree(folder(), ignore_errors=True)


if __name__ == "__main__":
    main()
