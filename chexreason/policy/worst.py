"""The worst batch run for real on the device, and its peak memory as the device reports it."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from chexreason.data.encoded import EncodedPrompts
from chexreason.policy.policy import Policy


def with_pixels(prompts: EncodedPrompts, device: torch.device) -> EncodedPrompts:
    """Prompts of ``blank_prompts`` with black images, on ``device``."""
    if prompts.pixel_values is None:
        return prompts.to(device)
    return replace(prompts, pixel_values=torch.zeros(prompts.pixel_values.shape)).to(device)


@contextmanager
def endless(policy: Policy) -> Iterator[None]:
    """No token ends an answer while the block runs: every completion takes its whole length."""
    stop, policy.stop_ids = policy.stop_ids, []
    try:
        yield
    finally:
        policy.stop_ids = stop


def peak_on(device: torch.device, work: Callable[[], object], setting: str) -> int:
    """Peak bytes of ``work``: the allocator's on a GPU, the process's largest resident size (libraries included) else.

    Raises ValueError naming the ``setting`` (``name=value``) to lower where the device runs out of memory.
    """
    if device.type != "cuda":
        work()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        work()
    except torch.cuda.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the worst batch does not fit {device} with {setting}: lower it ({reason})") from None
    return int(torch.cuda.max_memory_allocated(device))
