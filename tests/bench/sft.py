"""Our SFT step against the SFTTrainer of TRL 1.16: same model, data, batch, LoRA and optimiser, steps in turns.

    make bench-sft

Prints a table and writes ``out/bench/sft.json``. The model has the shape of Gemma 3 with 256 image tokens, random
weights, and float32: its speed is what is measured. A step is forward, backward and update on a batch that is already
encoded; "features at hand" are steps that find the frozen tower's output ready. Time is the CPU time of one thread,
which other work on the machine disturbs least. Peak memory is that of a process of its own for each side, over what it
held before its first step.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, Gemma3Config, Gemma3ForConditionalGeneration, GenerationConfig
from transformers.image_utils import SizeDict

from chexreason.files import write_json
from chexreason.policy.adapters import TARGETS, attach_lora
from chexreason.policy.load import resolve_source
from chexreason.policy.logprobs import completion_scores
from chexreason.policy.policy import Policy
from chexreason.quiet import quiet

Step = Callable[[], float]
SIDES = ("ours", "features", "peer")
BATCH, ROUNDS, MEMORY_STEPS, SIZE, IMAGE_TOKENS, VOCABULARY = 2, 3, 2, 256, 256, 32_768
LORA = {"r": 16, "alpha": 32}
PROMPT = "You are a radiologist. Read this frontal chest radiograph and list the findings. " * 3
ANSWER = "<think>The heart is enlarged and both costophrenic angles are blunt, no air in the pleura.</think>" * 3


def model() -> Gemma3ForConditionalGeneration:
    """Gemma 3 of about 47 million parameters; the image matters (its projection starts at zero otherwise)."""
    torch.manual_seed(0)
    small = json.loads((Path(resolve_source("tiny:tiny_gemma3")) / "config.json").read_text())
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 4}
    text |= {"layer_types": ["sliding_attention", "full_attention"] * 3, "head_dim": 128, "vocab_size": VOCABULARY}
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6}
    config = Gemma3Config.from_dict(
        small
        | {"mm_tokens_per_image": IMAGE_TOKENS, "dtype": "float32"}
        | {"text_config": small["text_config"] | text}
        | {"vision_config": small["vision_config"] | vision | {"image_size": SIZE}}
    )
    found = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(found.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    found.generation_config = GenerationConfig(eos_token_id=small["eos_token_id"], pad_token_id=0, bos_token_id=2)
    return found.requires_grad_(False)


def processor() -> Any:
    """The tiny model's processor, at this model's image size."""
    found = AutoProcessor.from_pretrained(resolve_source("tiny:tiny_gemma3"), image_seq_length=IMAGE_TOKENS)
    found.image_processor.size = SizeDict(height=SIZE, width=SIZE)
    return found


def images() -> list[Image.Image]:
    """A batch of grey noise."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (SIZE, SIZE), dtype=np.uint8)).convert("RGB") for _ in range(BATCH)]


def ours(*, at_hand: bool) -> Step:
    """Our step, as ``SFTModule`` makes it."""
    policy = Policy(model(), processor(), "bench")
    torch.manual_seed(1)
    attach_lora(policy, **LORA, dropout=0.0)
    policy.train()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01)
    prompts = policy.encode(images(), [PROMPT] * BATCH)
    ids, mask = policy.encode_answers([ANSWER] * BATCH)
    if at_hand:
        prompts = policy.with_features(prompts)

    def step() -> float:
        scores = completion_scores(policy, policy.with_features(prompts), ids, mask, shared=False)
        loss = -scores.logp.sum() / mask.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def peer() -> Step:
    """The step of TRL's trainer, through its own collator and ``training_step``."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    user = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    assistant = [{"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}]
    rows = [{"images": [image], "prompt": user, "completion": assistant} for image in images()]
    folder = tempfile.mkdtemp()
    args = SFTConfig(
        folder,
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
    base, reader = model(), processor()
    trainer = SFTTrainer(base, args, train_dataset=Dataset.from_list(rows), processing_class=reader, peft_config=lora)
    trainer.current_gradient_accumulation_steps = 1  # its loop would set it
    optimizer = trainer.create_optimizer()
    batch = next(iter(trainer.get_train_dataloader()))

    def step() -> float:
        loss = trainer.training_step(trainer.model, dict(batch))
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def build(side: str) -> Step:
    """The step of one of ``SIDES``."""
    return peer() if side == "peer" else ours(at_hand=side != "ours")


def extra_memory(side: str) -> int:
    """Bytes that a few steps need above what the process held before; in this process, which is then used up."""
    step = build(side)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = _resident("VmRSS")
    for _ in range(MEMORY_STEPS):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory_of(side: str) -> float:
    """Megabytes, measured in a process of its own."""
    command = [sys.executable, __file__, "memory", side]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) / 1e6


def rows() -> Iterator[dict[str, object]]:
    """All lines of the table; ``ratio`` is peer over ours for time (more is better), ours over peer for memory."""
    steps = {side: build(side) for side in SIDES}
    losses = {side: [step()] for side, step in steps.items()}  # the first warms up
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(ROUNDS):
        for side in SIDES if turn % 2 else reversed(SIDES):
            start = time.process_time()
            losses[side].append(steps[side]())
            seconds[side].append(time.process_time() - start)
    median = {side: statistics.median(values) for side, values in seconds.items()}
    case = f"Gemma 3, {sum(p.numel() for p in model().parameters()) / 1e6:.0f} M, batch {BATCH}"
    for side, name, bar in (("ours", "epoch 1", 1.0), ("features", "features at hand", 1.5)):
        yield row(f"{case}, {name}", "CPU s/step", median[side], median["peer"], median["peer"] / median[side], bar)
    other = memory_of("peer")
    for side, name in (("ours", "epoch 1"), ("features", "features at hand")):
        memory = memory_of(side)
        yield row(f"{case}, {name}: peak above idle", "MB", memory, other, memory / other, 0.7)
    gap = max(abs(a - b) / b for a, b in zip(losses["ours"], losses["peer"], strict=True))
    yield row(f"{case}: loss of {ROUNDS + 1} steps, largest relative gap", "share", gap, None, None, 0.01)
    flops = 2 * 1024**3 / min(_matmul_seconds() for _ in range(3))
    yield row("this machine's matmul peak, float32", "GFLOP/s", flops / 1e9, None, None, None)


def _matmul_seconds() -> float:
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    start = time.process_time()
    left @ right
    return time.process_time() - start


def row(
    case: str, metric: str, mine: float, other: float | None, ratio: float | None, bar: float | None
) -> dict[str, object]:
    """One line of the table."""
    return {"case": case, "metric": metric, "ours": mine, "peer": other, "ratio": ratio, "bar": bar}


def main() -> None:
    """Measure, print, write."""
    quiet()
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["memory"]:
        print(extra_memory(sys.argv[2]))
        return
    found = []
    for line in rows():
        bar = f"x{line['ratio']:.2f}  bar {line['bar']}" if line["ratio"] else ""
        peer = "" if line["peer"] is None else f"{line['peer']:>9.3f}"
        print(f"{line['case']:<62} {line['ours']:>9.3f} {line['metric']:<10} {peer:>9}  {bar}", flush=True)
        found.append(line)
    write_json(Path("out/bench/sft.json"), found)


if __name__ == "__main__":
    main()
