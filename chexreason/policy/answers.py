"""Sampled token ids to parsed completions."""

from __future__ import annotations

from collections.abc import Sequence

from chexreason.labels.schema import LabelSet
from chexreason.parsing import parse
from chexreason.policy.generate import Sampled
from chexreason.policy.policy import Policy
from chexreason.types import Completion, Study


def read_completions(
    policy: Policy, sampled: Sampled, studies: Sequence[Study], label_set: LabelSet, grammar: str
) -> list[Completion]:
    """Decode and parse sampled rows; row ``b * G + g`` belongs to ``studies[b]``."""
    group = sampled.ids.shape[0] // len(studies)
    texts = policy.decode(sampled.ids, sampled.mask)
    lengths = sampled.mask.sum(1).tolist()
    return [
        Completion(studies[n // group].study_id, text, parse(text, label_set, grammar), int(lengths[n]), bool(done))
        for n, (text, done) in enumerate(zip(texts, sampled.finished.tolist(), strict=True))
    ]
