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

import gc
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.sft_models import SIZE, TEXT, VOCABULARY, model, processor
from chexreason.files import write_json
from chexreason.model.adapters import TARGETS, attach_lora
from chexreason.model.features import cache_films
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy
from chexreason.quiet import quiet
from chexreason.types import Sample, Study

Step = Callable[[], float]
SIDES = ("ours", "features", "peer")
FAMILIES = {"gemma3": "Gemma 3", "qwen2_5_vl": "Qwen2.5-VL"}
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
    rng = np.random.default_rng(0)
    paths = [folder() / f"{i}.png" for i in range(BATCH)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (SIZE, SIZE), dtype=np.uint8)).convert("RGB").save(path)
    return paths


def ours(family: str, *, later: bool) -> Step:
    """Our step, as loader and ``SFTModule`` make it."""
    policy = Policy(model(family), processor(family), "bench")
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
    base, reader = model(family), processor(family)
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


def extra_memory(side: str, family: str) -> int:
    """Bytes that a few steps need above what the process held before; in this process, which is then used up."""
    step = build(side, family)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = _resident("VmRSS")
    for _ in range(MEMORY_STEPS):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory_of(side: str, family: str) -> float:
    """Megabytes, measured in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, side, family]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) / 1e6


def rows(family: str) -> Iterator[dict[str, object]]:
    """The lines of one model; ``ratio`` is peer over ours for time (more is better), ours over peer for memory."""
    steps = {side: build(side, family) for side in SIDES}
    losses = {side: [step()] for side, step in steps.items()}  # the first warms up
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(ROUNDS):
        for side in SIDES if turn % 2 else reversed(SIDES):
            start = time.process_time()
            losses[side].append(steps[side]())
            seconds[side].append(time.process_time() - start)
    median = {side: statistics.median(values) for side, values in seconds.items()}
    millions = sum(p.numel() for p in model(family).parameters()) / 1e6
    case = f"{FAMILIES[family]}, {millions:.0f} M, batch {BATCH}"
    epochs = (("ours", "epoch 1", 1.0), ("features", "later epochs", 1.5))
    for side, name, bar in epochs:
        yield row(f"{case}, {name}", "CPU s/step", median[side], median["peer"], median["peer"] / median[side], bar)
    scored = prompt_scores_share(family, median["peer"])
    for side, name, _ in epochs:
        other = median["peer"] * (1 - scored)
        yield row(f"{case}, {name}, no prompt scored", "CPU s/step", median[side], other, other / median[side], None)
    other = memory_of("peer", family)
    for side, name, _ in epochs:
        memory = memory_of(side, family)
        yield row(f"{case}, {name}: peak above idle", "MB", memory, other, memory / other, 0.7)
    gap = max(abs(a - b) / b for a, b in zip(losses["features"], losses["peer"], strict=True))
    yield row(f"{case}: loss of {ROUNDS + 1} steps, largest relative gap", "share", gap, None, None, 0.01)
    for side, name, _ in epochs:
        with Operations() as counted:
            steps[side]()
        share = counted.total / median[side] / peak_flops()
        yield row(f"{case}, {name}: of matmul peak", "share", share, None, None, None)


class Operations(TorchDispatchMode):
    """Adds up the floating-point operations of products and convolutions; the CPU's attention kernel is not counted."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=output)
        return output


def prompt_scores_share(family: str, seconds: float) -> float:
    """The part of TRL's step that goes into the vocabulary at prompt positions, at the speed of this machine's peak."""
    policy = Policy(model(family), processor(family), "bench")
    image = Image.open(films()[0]).convert("RGB")
    prompt = policy.encode([image] * BATCH, [PROMPT] * BATCH).input_ids.numel()
    return 3 * 2 * prompt * TEXT["hidden_size"] * VOCABULARY / peak_flops() / seconds  # forward, and again in backward


@cache
def peak_flops() -> float:
    """Operations a second of one large product of float32 matrices."""
    return 2 * 1024**3 / min(_matmul_seconds() for _ in range(5))


def _matmul_seconds() -> float:
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    start = time.process_time()
    left @ right
    return time.process_time() - start


def row(case: str, metric: str, *numbers: float | None) -> dict[str, object]:
    """One line of the table: ours, the peer's, the ratio, the bar."""
    return {"case": case, "metric": metric} | dict(zip(("ours", "peer", "ratio", "bar"), numbers, strict=True))


def show(line: dict[str, Any]) -> None:
    """Print one line of the table."""
    bar = "" if line["bar"] is None else f"bar {line['bar']}"
    ratio = f"x{line['ratio']:.2f}" if line["ratio"] else ""
    peer = "" if line["peer"] is None else f"{line['peer']:.3f}"
    print(f"{line['case']:<66} {line['ours']:>9.3f} {line['metric']:<10} {peer:>9} {ratio:>6}  {bar}", flush=True)


def main() -> None:
    """Measure, print, write."""
    quiet()
    torch.set_num_threads(1)
    try:
        if sys.argv[1:]:
            print(extra_memory(*sys.argv[1:]))
            return
        found = [row("this machine's matmul peak, float32", "GFLOP/s", peak_flops() / 1e9, None, None, None)]
        show(found[0])
        for family in FAMILIES:
            for line in rows(family):
                show(line)
                found.append(line)
        write_json(Path("out/bench/sft.json"), found)
    finally:
        shutil.rmtree(folder(), ignore_errors=True)


if __name__ == "__main__":
    main()
