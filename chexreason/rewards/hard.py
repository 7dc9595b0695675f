"""The paper's hard reward: set overlap of a valid answer, less a little when the answer is short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from chexreason.labels.schema import LabelSet
from chexreason.rewards.base import named_weights, scored_labels, set_jaccard
from chexreason.types import Completion, Study

_PARTS = ("jaccard", "length_penalty")


class HardReward:
    """Jaccard overlap J, or J - ``length_penalty`` below ``min_length`` tokens.

    An output that is not valid earns 0, and so does any answer to a study without a judged label.
    ``unknown="ignore"`` drops labels outside the label set, as the paper does; "penalise" counts each as a false
    positive. The paper's rule has two edge cases: under "ignore", unknown labels alone fully match a study where
    nothing is true (keep such studies out of training, or penalise); and an invalid output (0) outscores a short and
    wholly wrong one (-``length_penalty``).
    Source: Berger et al. 2025, hard reward; the size of the penalty and the unit of length are this project's choice.
    """

    def __init__(
        self,
        min_length: int = 250,
        length_penalty: float = 0.1,
        unknown: Literal["ignore", "penalise"] = "ignore",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if unknown not in ("ignore", "penalise"):
            raise ValueError(f"unknown='{unknown}' is not a rule of HardReward; use 'ignore' or 'penalise'")
        self.min_length = min_length
        self.length_penalty = length_penalty
        self.unknown = unknown
        self.weights = named_weights("HardReward", _PARTS, weights)

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
    ) -> dict[str, Tensor]:
        """Parts ``jaccard`` [N] in 0..1 and ``length_penalty`` [N], 0 or negative."""
        rows = [self._row(c, s, label_set) for c, s in zip(completions, studies, strict=True)]
        return dict(zip(_PARTS, torch.tensor(rows).reshape(-1, len(_PARTS)).unbind(1), strict=True))

    def _row(self, completion: Completion, study: Study, label_set: LabelSet) -> tuple[float, float]:
        if not completion.parsed.valid or not any(study.mask):
            return 0.0, 0.0
        truth, predicted = scored_labels(completion, study, label_set)
        n_unknown = len(completion.parsed.unknown) if self.unknown == "penalise" else 0
        short = completion.n_tokens < self.min_length
        return set_jaccard(truth, predicted, n_unknown), -self.length_penalty if short else 0.0
