"""The paper's nuanced reward: credit for matches, charges for false positives, collapse and format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chexreason.labels.schema import LabelSet
from chexreason.rewards.base import checked_prevalence, named_weights, require_prices, scored_labels, set_jaccard
from chexreason.rewards.collapse import CollapseWindow
from chexreason.types import Completion, Parsed, Study

_PARTS = ("exact", "partial", "false_positive", "collapse", "format", "jaccard")


class NuancedReward:
    """Sum of ``exact`` and ``partial`` credit and of the negative ``false_positive``, ``collapse``, ``format`` parts.

    ``prevalence`` maps each label to its share of the pool's images that label it: a false positive costs
    ``false_positive_base + false_positive_slope * prevalence``, so common labels cost more than rare ones.
    ``partial`` is ``recall`` times recall plus ``precision`` times precision; with nothing true and nothing predicted
    both are 1, with only one of the sets empty both are 0. A malformed output costs ``broken`` and has no other part;
    it also stays out of the collapse window, having predicted nothing. An answer to a study without a judged label has
    no part at all and stays out of the window. ``jaccard`` is a metric (weight 0 unless set), the quantity that runs
    under the hard reward show too.
    Source: Berger et al. 2025, nuanced reward; false-positive weights, ``stray`` and ``broken`` are this project's.
    """

    def __init__(
        self,
        prevalence: Mapping[str, float],
        collapse: CollapseWindow,
        exact: float = 100.0,
        recall: float = 30.0,
        precision: float = 20.0,
        false_positive_base: float = 10.0,
        false_positive_slope: float = 40.0,
        unknown: float = 100.0,
        duplicate: float = 25.0,
        stray: float = 10.0,
        broken: float = 100.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        shares = checked_prevalence("NuancedReward", prevalence)
        self.false_positive_cost = {x: false_positive_base + false_positive_slope * shares[x] for x in shares}
        self.collapse = collapse
        self.exact, self.recall, self.precision = exact, recall, precision
        self.unknown, self.duplicate, self.stray, self.broken = unknown, duplicate, stray, broken
        self.weights = named_weights("NuancedReward", _PARTS, {"jaccard": 0.0, **(weights or {})})

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
    ) -> dict[str, Tensor]:
        """Parts ``exact``, ``partial``, ``false_positive``, ``collapse``, ``format`` and ``jaccard``, each [N]."""
        require_prices("NuancedReward", self.false_positive_cost, studies, label_set)
        sets = [scored_labels(c, s, label_set) for c, s in zip(completions, studies, strict=True)]
        rated = [row for row, study in enumerate(studies) if any(study.mask)]
        valid = [row for row in rated if completions[row].parsed.valid]
        charges = dict(zip(valid, self.collapse([sets[row][1] for row in valid]), strict=True))

        values = {part: torch.zeros(len(completions)) for part in _PARTS}  # each [N]
        for row in rated:
            values["format"][row] = -self._format_cost(completions[row].parsed)
            if row not in charges:
                continue
            truth, predicted = sets[row]
            values["exact"][row] = self.exact if predicted == truth else 0.0
            values["partial"][row] = self._partial(truth, predicted)
            # Sorted, so that the rounded sum does not depend on the order in which a set yields its labels.
            values["false_positive"][row] = -sum(self.false_positive_cost[x] for x in sorted(predicted - truth))
            values["collapse"][row] = -charges[row]
            values["jaccard"][row] = set_jaccard(truth, predicted)
        return values

    def state_dict(self) -> dict[str, Any]:
        """The collapse window, the only thing this reward remembers."""
        return {"collapse": self.collapse.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the collapse window."""
        self.collapse.load_state_dict(state["collapse"])

    def _partial(self, truth: frozenset[str], predicted: frozenset[str]) -> float:
        if not truth or not predicted:
            return self.recall + self.precision if truth == predicted else 0.0
        hits = len(truth & predicted)
        return self.recall * hits / len(truth) + self.precision * hits / len(predicted)

    def _format_cost(self, parsed: Parsed) -> float:
        if not parsed.valid:
            return self.broken
        unknown = self.unknown * len(parsed.unknown)
        return unknown + self.duplicate * len(parsed.duplicates) + self.stray * parsed.stray_blocks
