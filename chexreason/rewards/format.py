"""A reward for the answer format alone, to be mixed with one for the labels. Short because a reward is a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chexreason.labels.schema import LabelSet
from chexreason.rewards.base import named_weights
from chexreason.types import Completion, Study

_PARTS = ("valid", "extras")


class FormatReward:
    """``valid`` is 1 for an output that obeys the answer format; ``extras`` is -1 for each extra item in it.

    Extra items are labels outside the label set, repeated labels and blocks of text outside the format. At most
    ``most`` of them are charged. An output that is not valid has no extras.
    """

    def __init__(self, most: int = 4, weights: Mapping[str, float] | None = None) -> None:
        if most < 0:
            raise ValueError(f"most={most}: charge 0 or more extras of an answer")
        self.most = most
        self.weights = named_weights("FormatReward", _PARTS, weights)

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
    ) -> dict[str, Tensor]:
        """Parts ``valid`` [N], 0 or 1, and ``extras`` [N] in -most..0."""
        rows = [self._row(completion) for completion in completions]
        return dict(zip(_PARTS, torch.tensor(rows).reshape(-1, len(_PARTS)).unbind(1), strict=True))

    def _row(self, completion: Completion) -> tuple[float, float]:
        parsed = completion.parsed
        if not parsed.valid:
            return 0.0, 0.0
        extras = len(parsed.unknown) + len(parsed.duplicates) + parsed.stray_blocks
        return 1.0, -float(min(extras, self.most))
