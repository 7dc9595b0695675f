"""Labels paid by their inverse pool prevalence: in expectation the mean Youden index, which no blind answer raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from chexreason.labels.schema import LabelSet
from chexreason.rewards.base import BY_LABEL, by_label, checked_prevalence, named_weights, require_prices
from chexreason.types import Completion, Study


class BalancedReward:
    """1 / p for a label rightly named, - 1 / (1 - p) for one wrongly named; their mean over the judged labels.

    ``prevalence`` maps each label to its share p of the pool's images that label it, taken into ``floor``..1 -
    ``floor``. Over studies of that prevalence a label earns sensitivity + specificity - 1 on average: 0 for every
    answer that does not depend on the image, 1 at best. The format aside, one answer earns -1 / floor .. 1 / floor.
    A malformed output costs ``broken`` and names nothing; labels outside the label set cost nothing.
    Source: Youden 1950, index for rating diagnostic tests; floor and ``broken`` are this project's choice.
    """

    def __init__(
        self,
        prevalence: Mapping[str, float],
        floor: float = 0.02,
        broken: float = 1.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if not 0.0 < floor <= 0.5:
            raise ValueError(f"floor={floor}: a share above 0, at most 0.5; it bounds the price of a rare label")
        shares = {x: min(max(p, floor), 1 - floor) for x, p in checked_prevalence("BalancedReward", prevalence).items()}
        self.gain, self.cost = {x: 1 / p for x, p in shares.items()}, {x: 1 / (1 - p) for x, p in shares.items()}
        self.broken, self.weights = broken, named_weights("BalancedReward", BY_LABEL, weights)

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
    ) -> dict[str, Tensor]:
        """Parts ``true_positive``, ``false_positive`` and ``format``, each [N]."""
        require_prices("BalancedReward", self.gain, studies, label_set)
        return by_label(completions, studies, label_set, self.gain, self.cost, self.broken)
