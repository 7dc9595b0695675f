"""Strategies to test a reward with: answers that ignore the image, and honest ones with a known share of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chexreason.labels.schema import LabelSet
from chexreason.parsing import BLOCKS, Grammar
from chexreason.types import Study

REPEATS = 30  # of one label in a single answer
_NORMAL = "No Finding"
NONSENSE = "The quick brown fox jumps over the lazy dog. " * 10
ADVERSARIES = {
    "empty_text": "writes nothing at all",
    "empty_list": "obeys the format and lists nothing",
    "unknown_label": "lists one word that is no label",
    "all_labels": "lists every label",
    "most_common": "lists the most common label",
    "no_finding": 'lists "No Finding"',
    "best_constant": "lists the one label set that this reward pays best",
    "prior": "draws each label with its prevalence",
    "copied_prompt": "repeats the prompt",
    "repeated_label": f"lists the most common label {REPEATS} times",
    "nonsense": "writes prose without any tag",
}


def listing(items: Sequence[str], grammar: str) -> str:
    """An answer that lists ``items`` whatever they are, those too that ``format_answer`` refuses."""
    blocks = BLOCKS[Grammar(grammar)]
    inside = {"think": "The film was read."}
    return "\n".join(f"<{block}>{inside.get(block, ', '.join(items))}</{block}>" for block in blocks)


def constant_texts(prevalence: Mapping[str, float], prompt: str, grammar: str) -> dict[str, str]:
    """The one text with which each degenerate strategy answers all studies, by its name in ``ADVERSARIES``.

    ``prevalence`` maps the labels, in their order, to their share of the studies; ``prompt`` is what the model reads.
    """
    most_common = max(prevalence, key=lambda label: prevalence[label])
    lists = {
        "empty_list": [],
        "unknown_label": ["None"],
        "all_labels": list(prevalence),
        "most_common": [most_common],
        "repeated_label": [most_common] * REPEATS,
    }
    if _NORMAL in prevalence:
        lists["no_finding"] = [_NORMAL]
    texts = {name: listing(items, grammar) for name, items in lists.items()}
    return texts | {"empty_text": "", "copied_prompt": prompt, "nonsense": NONSENSE}


def prior_answers(prevalence: Mapping[str, float], n: int, generator: torch.Generator) -> list[list[str]]:
    """N label sets drawn label by label, from their prevalence alone; ["No Finding"] where nothing was drawn."""
    drawn = torch.rand(n, len(prevalence), generator=generator) < torch.tensor(list(prevalence.values()))  # [N, L]
    sets = [[label for label, on in zip(prevalence, row, strict=True) if on] for row in drawn.tolist()]
    return [labels or [_NORMAL] for labels in sets]


def honest_answers(
    studies: Sequence[Study], label_set: LabelSet, f1: float, generator: torch.Generator
) -> list[list[str]]:
    """A label set for each study: the truth with errors, as many as bring the mean F1 of an answer down to ``f1``.

    A true label is lost at some rate r, and an absent one of prevalence p is named at r p / (1 - p): every label is
    then named as often as it is true, and its own F1 is 1 - r in expectation. The rate is found by bisection on one
    set of random numbers. An answer that lost all its labels says "No Finding", because the format asks for a list.
    Raises ValueError where ``f1`` is not in 0..1.
    """
    if not 0.0 <= f1 <= 1.0:
        raise ValueError(f"honest answers of F1 {f1}: give a share in 0..1")
    truth = torch.tensor([study.target for study in studies], dtype=torch.bool)  # [N, L]
    judged = torch.tensor([study.mask for study in studies], dtype=torch.bool)  # [N, L]
    luck = torch.rand(truth.shape, generator=generator)  # [N, L]
    low, high = 0.0, 1.0
    for _ in range(30):
        rate = (low + high) / 2
        right = _row_f1(_flipped(truth, judged, luck, rate, label_set) & judged, truth)  # [N]
        enough = float(right[judged.any(1)].mean()) >= f1
        low, high = (rate, high) if enough else (low, rate)
    named = _flipped(truth, judged, luck, low, label_set)
    return [list(label_set.decode(row)) for row in named.tolist()]


def _flipped(truth: Tensor, judged: Tensor, luck: Tensor, rate: float, label_set: LabelSet) -> Tensor:
    """The labels named [N, L] at an error rate: a label that is wrong at one rate is wrong at every higher one."""
    share = (truth & judged).sum(0) / judged.sum(0).clamp(min=1)  # [L]
    odds = share / (1 - share).clamp(min=1e-6)
    named = torch.where(truth, luck >= rate, luck < rate * odds) & judged
    if _NORMAL in label_set.labels:
        normal = label_set.index(_NORMAL)
        named[:, normal] |= ~named.any(1)
    return named


def _row_f1(named: Tensor, truth: Tensor) -> Tensor:
    """2 |both| / (|named| + |true|) of each row [N], 1 where both are none."""
    both, sizes = (named & truth).sum(1), named.sum(1) + truth.sum(1)  # [N]
    return torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0)
