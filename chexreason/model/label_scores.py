"""Label log-odds: the likelihood of the policy's answer with a label, against the same answer without it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chexreason.data.batches import EncodedPrompts
from chexreason.labels.schema import LabelSet
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat, format_answer
from chexreason.types import Parsed

NO_FINDING = "No Finding"


def label_log_odds(
    policy: Policy, prompts: EncodedPrompts, answers: Sequence[Parsed], answer_format: AnswerFormat
) -> Tensor:
    """Log-odds [B, L] of every label, given the image, the reasoning and the other labels of the policy's own answer.

    Each answer is scored with the label put in and with it left out, its reasoning kept word for word; the sigmoid of
    the difference is the policy's probability of the label among these two. A broken answer lists nothing.
    """
    pairs = [label_pairs(answer.labels, answer_format.label_set) for answer in answers]
    texts = [_texts(answer.think, both, answer_format.grammar) for answer, both in zip(answers, pairs, strict=True)]
    width = max(len(row) for row in texts)
    padded = [text for row in texts for text in [*row, *[next(iter(row))] * (width - len(row))]]
    ids, mask = policy.encode_answers(padded)
    with torch.no_grad():
        scores = completion_scores(
            policy, prompts, ids.to(policy.device), mask.to(policy.device), group_size=width
        ).logp.cpu()
    totals = scores.double().sum(1).reshape(len(answers), width).tolist()  # [B, width]
    rows = []
    for both, places, logp in zip(pairs, texts, totals, strict=True):
        found = {labels: logp[place] for place, labels in enumerate(places.values())}
        rows.append([found[present] - max(found[labels] for labels in absent) for present, absent in both])
    return torch.tensor(rows)


Labels = tuple[str, ...]


def label_pairs(chosen: Sequence[str], label_set: LabelSet) -> list[tuple[Labels, list[Labels]]]:
    """For each label the answer that has it, and the answers without it of which the likeliest counts.

    A finding takes "No Finding" out of the answer, and an answer that would list nothing says "No Finding" instead.
    Without "No Finding" a healthy answer becomes the likeliest single finding.

    >>> from chexreason.labels.catalog import NIH9
    >>> label_pairs(["Edema"], NIH9)[NIH9.index("Edema")]
    (('Edema',), [('No Finding',)])
    """
    findings = [label for label in label_set if label in chosen and label != NO_FINDING]
    pairs: list[tuple[Labels, list[Labels]]] = []
    for label in label_set:
        if label == NO_FINDING:
            others = [tuple(findings)] if findings else [(other,) for other in label_set if other != NO_FINDING]
            pairs.append(((NO_FINDING,), others))
        else:
            rest = tuple(other for other in findings if other != label)
            present = tuple(other for other in label_set if other in rest or other == label)
            pairs.append((present, [rest or (NO_FINDING,)]))
    return pairs


def _texts(think: str, pairs: Sequence[tuple[Labels, list[Labels]]], grammar: str) -> dict[str, Labels]:
    """The distinct answers of a study and the labels each lists, in a fixed order."""
    listed = dict.fromkeys(labels for present, absent in pairs for labels in (present, *absent))
    return {format_answer(think, labels, grammar): labels for labels in listed}
