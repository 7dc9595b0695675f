"""The arithmetic of a GRPO step: counted while it runs, and the least that any engine must do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.grpo_sides import Case
from benchmarks.models import IMAGE_TOKENS

_aten = torch.ops.aten
PROMPT_TOKENS = 410  # image and words together


def counted(work: Callable[[], object]) -> float:
    """FLOPs of the products, convolutions and attention in ``work``."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        work()
    return float(counter.get_total_flops())


def minimum(policy: Any, case: Case) -> float:
    """FLOPs of a step that encodes each image once and runs each prompt once a pass.

    Passes: rollout with the adapter merged, reference, forward, and backward to the inputs of every layer (the frozen
    weights need no gradient; attention counts twice there). The head runs on completion tokens alone, in all four.
    """
    base, rows = policy.base, case.studies * case.group
    text = base.config.get_text_config()
    adapter = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    body = sum(m.weight.numel() for n, m in base.named_modules() if _is_base(n, m) and "language_model" in n)
    tower = sum(m.weight.numel() for n, m in base.named_modules() if _is_base(n, m) and _in_tower(n))
    patches = case.studies * IMAGE_TOKENS * (4 if case.family == "qwen2_5_vl" else 1)
    tokens, prompts = rows * case.tokens, case.studies * PROMPT_TOKENS
    pairs = rows * case.tokens * (PROMPT_TOKENS + case.tokens / 2) + case.studies * PROMPT_TOKENS**2 / 2
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    attention = 4.0 * width * pairs * text.num_hidden_layers
    head = text.hidden_size * text.vocab_size * tokens
    linear = 4 * 2.0 * (body * (tokens + prompts) + head) + 3 * 2.0 * adapter * (tokens + prompts)
    return linear + 5 * attention + 2.0 * tower * patches


def _is_base(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and "lora_" not in name


def _in_tower(name: str) -> bool:
    return "vision" in name or "visual" in name


def _forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    n, heads, length, width = query
    return int(4 * n * heads * length * key[-2] * width)


def _backward(_: Any, query: Any, key: Any, *__: Any, **___: Any) -> int:
    n, heads, length, width = query
    return int(10 * n * heads * length * key[-2] * width)  # the scores are made anew


_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
