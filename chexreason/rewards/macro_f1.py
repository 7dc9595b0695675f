"""Macro-F1 as a reward: each label paid what naming it adds to its F1 over the answers of late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from chexreason.labels.schema import LabelSet
from chexreason.rewards.base import BY_LABEL, by_label, checked_prevalence, named_weights, require_prices, scored_labels
from chexreason.types import Completion, Study


class MacroF1Reward:
    """(1 - F/2) / H for a label rightly named, - (F/2) / H for one wrongly named; their mean over the judged labels.

    A label's F1 over a pool is F = 2 TP / (named + positive), all three as shares of the studies that judge it. With
    H = (named + positive) / 2, dF = ((1 - F/2) dTP - (F/2) dFP) / H: the reward is what an answer adds to macro-F1, per
    share of the pool that the answer is. Of two answers in a call, the one that names no fewer of the true labels and
    no more of the others never earns less. Named as often as it is true, a label earns F/2 on average.

    The pool is running: shares of the last answers of all ranks (``AcrossRanks``), an answer's weight falling by
    ``memory`` / (``memory`` + n) with every n that follow. It begins with ``memory`` answers of F1 ``start`` that name
    each label at its ``prevalence``. All answers of a call enter it first, then each is paid at the same prices. H is
    ``floor`` at least: the format aside, one answer earns - 1 / (2 floor) .. 1 / floor. A malformed output costs
    ``broken`` and names nothing; labels outside the label set cost nothing.
    Source: the differential of F1 (Dice 1945); memory, start, floor and ``broken`` are this project's choice.
    """

    def __init__(
        self,
        prevalence: Mapping[str, float],
        memory: float = 256.0,
        start: float = 0.3,
        floor: float = 0.02,
        broken: float = 1.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if memory <= 0 or not 0.0 <= start <= 1.0 or not 0.0 < floor <= 0.5:
            raise ValueError(f"memory={memory}, start={start}, floor={floor}: memory > 0, start 0..1, floor 0..0.5")
        shares = checked_prevalence("MacroF1Reward", prevalence)
        self.memory, self.floor, self.broken = memory, floor, broken
        # Of each label: studies that judge it, studies that have it, answers that name it, and rightly.
        self.pool = {x: [memory, memory * p, memory * p, memory * p * start] for x, p in shares.items()}
        self.weights = named_weights("MacroF1Reward", BY_LABEL, weights)

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
    ) -> dict[str, Tensor]:
        """Parts ``true_positive``, ``false_positive`` and ``format``, each [N]."""
        require_prices("MacroF1Reward", self.pool, studies, label_set)
        self._remember(completions, studies, label_set)
        prices = {label: self._prices(*counts) for label, counts in self.pool.items()}
        gain, cost = ({label: pair[i] for label, pair in prices.items()} for i in (0, 1))
        return by_label(completions, studies, label_set, gain, cost, self.broken)

    def state_dict(self) -> dict[str, Any]:
        """The pool, the only thing this reward remembers."""
        return {"pool": {label: list(counts) for label, counts in self.pool.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the pool; raises ValueError when it is of other labels."""
        if set(state["pool"]) != set(self.pool):
            raise ValueError(f"saved pool of {sorted(state['pool'])}, but the prevalence is of {sorted(self.pool)}")
        self.pool = {label: [*map(float, counts)] for label, counts in state["pool"].items()}

    def _prices(self, judged: float, positive: float, named: float, right: float) -> tuple[float, float]:
        half = max((named + positive) / (2 * judged), self.floor)
        f1 = 2 * right / (named + positive) if right else 0.0
        return (1 - f1 / 2) / half, f1 / 2 / half

    def _remember(self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet) -> None:
        news = {label: [0, 0, 0, 0] for label in self.pool}
        for completion, study in zip(completions, studies, strict=True):
            truth, named = scored_labels(completion, study, label_set)
            named = named if completion.parsed.valid else frozenset()
            for label in label_set.decode(study.mask):
                marks = (True, label in truth, label in named, label in truth & named)
                news[label] = [count + mark for count, mark in zip(news[label], marks, strict=True)]
        for label, counts in news.items():
            kept = self.memory / (self.memory + counts[0])
            self.pool[label] = [kept * old + new for old, new in zip(self.pool[label], counts, strict=True)]
