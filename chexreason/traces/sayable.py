"""The facts that a text about one study may state: the judged labels in reading order, with side and severity."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from chexreason.labels.catalog import PARENT_OF
from chexreason.labels.schema import LabelSet
from chexreason.types import Sign, Study


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


_BANK = yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))
# In the order in which every text names the findings.
FINDINGS = {
    label: Phrases(**{kind: tuple(words) for kind, words in row.items()}) for label, row in _BANK["findings"].items()
}
# The words around the findings: how a text opens, links, denies and ends.
FRAMES: dict[str, tuple[str, ...]] = {kind: tuple(words) for kind, words in _BANK["frames"].items()}
# The heading of each step of prompt reasoning_a, and the labels it decides.
CHECKLIST: dict[str, tuple[str, ...]] = {heading: tuple(labels) for heading, labels in _BANK["checklist"].items()}

_SIDES = {
    "": {"side": "", "at": "", "lung": "the lungs"},
    "left": {"side": "left", "at": " on the left", "lung": "the left lung"},
    "right": {"side": "right", "at": " on the right", "lung": "the right lung"},
    "both": {"side": "bilateral", "at": " on each side", "lung": "both lungs"},
}
_NOTHING_KNOWN = {"sev": "", **_SIDES[""]}


@dataclass(frozen=True)
class Facts:
    """The sayable content of one study.

    ``positive`` and ``negative`` hold the judged labels; ``deniable`` are the negatives that a text may deny next to
    the positives; ``slots`` holds the phrase slots of each positive label; ``view`` is "PA ", "AP " or "".
    ``contradictory`` is True where "No Finding" was positive beside a disease; it is then in neither list.
    """

    positive: list[str]
    negative: list[str]
    deniable: list[str]
    slots: Mapping[str, Mapping[str, str]]
    view: str
    contradictory: bool

    def say(self, phrase: str, label: str) -> str:
        """A sentence about ``label`` with the study's side and severity."""
        return _sentence(phrase.format(**self.slots[label]))

    def name(self, label: str, rng: random.Random) -> str:
        """A noun phrase for ``label`` with the study's side and severity."""
        return _tidy(rng.choice(FINDINGS[label].names).format(**self.slots[label]))

    def plain_name(self, label: str, rng: random.Random) -> str:
        """A noun phrase for ``label`` alone."""
        return _tidy(rng.choice(FINDINGS[label].names[:2]).format(**_NOTHING_KNOWN))

    def affirmations(self, rng: random.Random, n_full: int) -> list[str]:
        """One sentence for each of the first ``n_full`` positive labels and one that names all the others."""
        full = [self.say(rng.choice(FINDINGS[label].signs), label) for label in self.positive[:n_full]]
        rest = self.positive[n_full:]
        # A long list keeps to bare names, so that no text grows without bound.
        names = [self.name(label, rng) if len(rest) <= 5 else self.plain_name(label, rng) for label in rest]
        return [*full, rng.choice(FRAMES["more"]).format(names=join_words(names, "and"))] if rest else full

    def denials(self, rng: random.Random) -> list[str]:
        """The deniable labels denied in random order: two or three in one sentence, the others one by one."""
        labels = rng.sample(self.deniable, len(self.deniable))
        n_first = min(len(labels), rng.randint(2, 3))
        if not labels:
            return []
        nouns = join_words([rng.choice(FINDINGS[label].nouns) for label in labels[:n_first]], "or")
        singles = [rng.choice(FINDINGS[label].absent) for label in labels[n_first:]]
        return [rng.choice(FRAMES["negatives"]).format(nouns=nouns), *singles]


def join_words(items: Sequence[str], word: str) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def facts_of(study: Study, label_set: LabelSet) -> Facts:
    """Collects what may be said about ``study``.

    Raises ValueError where target or mask do not fit the label set and where a label has no words.
    """
    if not len(study.target) == len(study.mask) == len(label_set):
        raise ValueError(
            f"study '{study.study_id}' has {len(study.target)} targets and {len(study.mask)} mask entries, but "
            f"'{label_set.name}' has {len(label_set)} labels: pass the label set the study was read with"
        )
    if missing := [label for label in label_set if label not in FINDINGS]:
        raise ValueError(f"no phrases for {missing} of '{label_set.name}'; add them to traces/phrases.yaml")
    judged = {label for label, on in zip(label_set, study.mask, strict=True) if on}
    present = judged & set(label_set.decode(study.target))
    contradictory = "No Finding" in present and bool(present - {"No Finding", "Support Devices"})
    if contradictory:  # noisy labels do this; no honest text covers both, and the disease is the stronger claim
        judged, present = judged - {"No Finding"}, present - {"No Finding"}
    positive = [label for label in FINDINGS if label in present]
    negative = [label for label in FINDINGS if label in judged - present]
    implied = {PARENT_OF.get(label) for label in positive} | {"No Finding"}
    return Facts(
        positive=positive,
        negative=negative,
        deniable=[label for label in negative if label not in implied],
        slots={label: _slots(label, [s for s in study.signs if s.label == label]) for label in positive},
        view=f"{study.view} " if study.view in {"PA", "AP"} else "",
        contradictory=contradictory,
    )


def _slots(label: str, signs: list[Sign]) -> dict[str, str]:
    """Side and severity words for one label: all its signs together, nothing where the study knows no sign."""
    if not signs:
        return dict(_NOTHING_KNOWN)
    sides = {sign.side for sign in signs}
    side = "both" if "both" in sides or sides >= {"left", "right"} else max(sides)
    severity = max(sign.severity for sign in signs)
    grade = FINDINGS[label].grades[min(2, int(3 * severity))]
    return {"sev": grade, **_SIDES[side]}


def _tidy(text: str) -> str:
    """Closes the gaps that empty slots leave and writes "an" before a vowel."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)


def _sentence(text: str) -> str:
    text = _tidy(text)
    return text[0].upper() + text[1:]
