"""Mode collapse, measured over a sliding window of answers: the one part of a reward that has a memory."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def dominance(predictions: Sequence[Iterable[str]]) -> float:
    """Share of the answers that hold the label most of them hold; 0 where none holds any."""
    counts = Counter(label for labels in predictions for label in set(labels))
    return max(counts.values(), default=0) / max(len(predictions), 1)


class CollapseWindow:
    """Charges answers that repeat a label which dominates the last ``size`` predictions.

    A label dominates once more than ``dominance * size`` predictions in the window hold it. The limit is a count, so
    a window that is still filling charges nothing before it is passed. An answer that holds a dominating label is
    charged ``base + per_excess * excess``, excess being the count above the limit; with several such labels the
    largest excess counts, once. ``cap`` bounds the charge of one answer (null: no bound).

    Order of update: all answers of a call enter the window first, oldest leaving, then each is judged against that
    one window. Equal answers of a group are thus charged equally, and their order only matters to what leaves.
    On several ranks every process holds the same window, of the answers of all of them (``AcrossRanks``).
    Source: Berger et al. 2025, nuanced reward; what counts as an excess repetition and the cap are this project's
    choice.
    """

    def __init__(
        self,
        size: int = 100,
        dominance: float = 0.7,
        per_excess: float = 30.0,
        base: float = 50.0,
        cap: float | None = 200.0,
    ) -> None:
        if size < 1 or not 0.0 < dominance < 1.0:
            raise ValueError(f"collapse window of size {size} at dominance {dominance}: need size >= 1, 0 < share < 1")
        self.size = size
        # The nudge keeps a product such as 0.29 * 100 = 28.999... from losing a whole prediction.
        self.limit = math.floor(dominance * size + 1e-9)
        self.per_excess = per_excess
        self.base = base
        self.cap = cap
        self._window: deque[tuple[str, ...]] = deque(maxlen=size)

    def __call__(self, predictions: Sequence[Iterable[str]]) -> list[float]:
        """Takes in the predicted label sets of one rollout and returns the charge of each, 0 or positive."""
        answers = [tuple(sorted(set(labels))) for labels in predictions]
        self._window.extend(answers)
        excess = self.excess()
        return [self._charge(max((excess.get(label, 0) for label in labels), default=0)) for labels in answers]

    def excess(self) -> dict[str, int]:
        """How far the count of each dominating label in the window lies above the limit."""
        counts = Counter(label for labels in self._window for label in labels)
        return {label: count - self.limit for label, count in counts.items() if count > self.limit}

    def state_dict(self) -> dict[str, Any]:
        """The window as plain lists, oldest first."""
        return {"window": [list(labels) for labels in self._window]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a saved window; raises ValueError when it is longer than this one."""
        window = state["window"]
        if len(window) > self.size:
            raise ValueError(
                f"saved window of {len(window)} predictions, but size is {self.size}: resume with that size"
            )
        self._window = deque((tuple(labels) for labels in window), maxlen=self.size)

    def _charge(self, excess: int) -> float:
        if excess == 0:
            return 0.0
        charge = self.base + self.per_excess * excess
        return charge if self.cap is None else min(charge, self.cap)
