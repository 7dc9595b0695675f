"""The phrase bank of the template teacher: ``phrases.yaml`` holds the words, this file their types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True, slots=True)
class Phrases:
    """The words for one label.

    ``names`` are noun phrases that follow "there is", ``signs`` full positive sentences, ``absent`` full negative
    sentences, ``nouns`` what follows "no"; ``grades`` are the words for low, middle and high severity.
    """

    names: tuple[str, ...]
    signs: tuple[str, ...]
    absent: tuple[str, ...]
    nouns: tuple[str, ...]
    grades: tuple[str, ...] = ("mild", "moderate", "marked")


_BANK = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
# In the order in which every text names the findings.
FINDINGS = {
    label: Phrases(**{kind: tuple(words) for kind, words in row.items()}) for label, row in _BANK["findings"].items()
}
# The words around the findings: how a text opens, links, denies and ends.
FRAMES: dict[str, tuple[str, ...]] = {kind: tuple(words) for kind, words in _BANK["frames"].items()}
# The heading of each step of prompt reasoning_a, and the labels it decides.
CHECKLIST: dict[str, tuple[str, ...]] = {heading: tuple(labels) for heading, labels in _BANK["checklist"].items()}
