"""Length-grouped batches: the samples of an optimiser update ordered so that its batches pad least."""

from __future__ import annotations

import torch
from torch import Tensor


def length_grouped(order: Tensor, lengths: Tensor, window: int) -> Tensor:
    """``order`` [n] with each run of ``window`` samples sorted by ``lengths`` [m], shortest first.

    Where a window is what all ranks contribute to one update, the update holds the samples it held before: only how
    they are cut into batches changes, which the loss does not depend on. No cut into full batches pads less.
    Neighbours go to the ranks in turn, so these have equal work; equal lengths keep their order. A function of its
    arguments alone, so a resumed epoch goes on as it began. Raises ValueError for a window below 1.

    >>> length_grouped(torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([5, 9, 5, 1, 8, 2]), 4).tolist()
    [3, 0, 2, 1, 5, 4]
    """
    if window < 1:
        raise ValueError(f"window={window}: an update has at least one sample")
    parts = order.split(window)
    return torch.cat([part[lengths[part].argsort(stable=True)] for part in parts])
