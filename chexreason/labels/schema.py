"""A label set: names in one fixed order. The only owner of label order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelSet:
    """An ordered, duplicate-free list of label names.

    Raises ValueError on a repeated or empty name.
    """

    name: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({label.casefold() for label in self.labels}) != len(self.labels) or not all(self.labels):
            raise ValueError(f"label set '{self.name}' has an empty or repeated name: {list(self.labels)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def index(self, label: str) -> int:
        """Position of ``label``; raises KeyError naming the label and the set when it is not one of them."""
        try:
            return self.labels.index(label)
        except ValueError:
            raise KeyError(f"unknown label '{label}'; '{self.name}' has: {', '.join(self.labels)}") from None

    def encode(self, names: Iterable[str]) -> tuple[int, ...]:
        """Multi-hot tuple [L] of ``names``; raises KeyError on a name outside the set."""
        wanted = {self.index(name) for name in names}
        return tuple(int(i in wanted) for i in range(len(self.labels)))

    def decode(self, hot: Iterable[int | bool]) -> tuple[str, ...]:
        """Names of the set positions of a multi-hot vector [L], in label order."""
        return tuple(name for name, on in zip(self.labels, hot, strict=True) if on)
