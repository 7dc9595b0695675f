"""A label set: names in one fixed order, the only owner of label order; and the form in which text is compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property


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

    @cached_property
    def by_name(self) -> dict[str, str]:
        """The labels by their folded names, long names first."""
        return {folded(label): label for label in sorted(self.labels, key=len, reverse=True)}

    def encode(self, names: Iterable[str]) -> tuple[int, ...]:
        """Multi-hot tuple [L] of ``names``; raises KeyError on a name outside the set."""
        wanted = {self.index(name) for name in names}
        return tuple(int(i in wanted) for i in range(len(self.labels)))

    def decode(self, hot: Iterable[int | bool]) -> tuple[str, ...]:
        """Names of the set positions of a multi-hot vector [L], in label order."""
        return tuple(name for name, on in zip(self.labels, hot, strict=True) if on)


# The plain form of what Unicode keeps apart: by category, and of other characters one by one.
_KINDS = {"Zs": " ", "Zl": "\n", "Zp": "\n", "Pd": "-", "Ps": "[", "Pe": "]", "Pi": '"', "Pf": '"', "Cf": "", "Cc": ""}
_ALIKE = str.maketrans(
    "\u2018\u2019\u201b\u2032\u02bc\u2212\u2192\u3001\u060c\u3002\u061b\u2236\u2044\u2023\u2043\u25aa\u25cf\u25e6\u2219\u00b7\u30fb",
    "'''''->,,.;:/••••••••",
)
_UNSEEN = re.compile("VARIATION SELECTOR|FILLER|GRAPHEME JOINER")  # names of characters that show nothing


class _Forms(dict[int, str]):
    def __missing__(self, code: int) -> str:
        whole = unicodedata.normalize("NFKC", chr(code)).translate(_ALIKE)
        self[code] = "".join(c if c.isascii() and (c.isspace() or c.isprintable()) else _by_kind(c) for c in whole)
        return self[code]


def _by_kind(character: str) -> str:
    unseen = _UNSEEN.search(unicodedata.name(character, ""))
    return "" if unseen else _KINDS.get(unicodedata.category(character), character)


_FORMS = _Forms()


def plain(text: str) -> str:
    """``text`` in the one form in which it is matched with names and patterns, of answers and of reasoning alike.

    Full-width letters and ligatures are ASCII letters (NFKC), all spaces, dashes and quotation marks are one each,
    ideographic punctuation is ASCII, invisible characters are gone. It goes character by character: ``plain`` of plain
    text is that text. What is stored and shown stays as it was written.
    """
    return text.translate(_FORMS)


def folded(text: str) -> str:
    """The plain form of a name without regard to case and spaces: two names that fold alike are one."""
    return unicodedata.normalize("NFKD", " ".join(plain(text).split()).casefold())
