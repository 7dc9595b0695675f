"""Learning-rate schedules by share of the run rather than by step count."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler


def scheduled(optimizer: Optimizer, n_steps: int, *, kind: str = "cosine", warmup: float = 0.05) -> LRScheduler:
    """A schedule over ``n_steps`` optimiser steps, the first ``warmup`` share of them rising from 0.

    ``kind`` is any name transformers knows ("cosine", "linear", "constant_with_warmup", ...). Raises ValueError for a
    warm-up outside 0..1.
    """
    if not 0 <= warmup <= 1:
        raise ValueError(f"optim.scheduler.warmup={warmup} is a share of the run: use 0..1")
    scheduler: LRScheduler = get_scheduler(kind, optimizer, round(warmup * n_steps), n_steps)
    return scheduler
