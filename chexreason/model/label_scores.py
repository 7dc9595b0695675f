"""Label log-odds: the likelihood of the policy's answer with a label, against the same answer without it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chexreason.data.batches import EncodedPrompts
from chexreason.labels.schema import LabelSet
from chexreason.model.logprobs import choice_scores
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat, format_answer
from chexreason.types import Parsed

NO_FINDING = "No Finding"


def label_log_odds(
    policy: Policy,
    prompts: EncodedPrompts,
    answers: Sequence[Parsed],
    answer_format: AnswerFormat,
    reasoned: Sequence[Sequence[str]] | None = None,
) -> Tensor:
    """Log-odds [B, L] of every label, given the image, the reasoning and the other labels of the policy's own answer.

    Each answer is scored with the label put in and with it left out, its reasoning kept word for word; the sigmoid of
    the difference is the policy's probability of the label among these two. A broken answer lists nothing. Other
    reasonings, ``reasoned`` [B, K], may stand in place of each answer's own: the K probabilities are averaged.
    """
    reasoned = [[answer.think] for answer in answers] if reasoned is None else reasoned
    pairs = [label_pairs(answer.labels, answer_format.label_set) for answer in answers]
    sets = [list(dict.fromkeys(s for present, absent in both for s in (present, *absent))) for both in pairs]
    texts = [
        format_answer(think, labels, answer_format.grammar)
        for thinks, listed in zip(reasoned, sets, strict=True)
        for think in thinks
        for labels in listed
    ]
    tokens = (ids[mask.bool()].tolist() for ids, mask in zip(*policy.encode_answers(texts), strict=True))
    rows = [[next(tokens) for _ in listed] for thinks, listed in zip(reasoned, sets, strict=True) for _ in thinks]
    with torch.no_grad():
        scores = iter(choice_scores(policy, prompts, rows, group_size=len(reasoned[0])))
    odds = []
    for thinks, both, listed in zip(reasoned, pairs, sets, strict=True):
        found = [dict(zip(listed, next(scores), strict=True)) for _ in thinks]
        odds.append([[logp[p] - max(logp[labels] for labels in absent) for p, absent in both] for logp in found])
    return mean_odds(torch.tensor(odds, dtype=torch.float64)).float()


def mean_odds(each: Tensor) -> Tensor:
    """Log-odds [B, L] of the mean over K of the probabilities with log-odds ``each`` [B, K, L]; exact for K = 1."""
    logsigmoid = nn.functional.logsigmoid
    return each[:, 0] if each.shape[1] == 1 else logsigmoid(each).logsumexp(1) - logsigmoid(-each).logsumexp(1)


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
