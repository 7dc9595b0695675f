"""The rewards lab: what a reward pays to given answers, to strategies that ignore the image and to honest ones.

All functions score with a copy of the reward: the state of a reward in training does not change.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from chexreason.data.prevalence import prevalence_of
from chexreason.labels.schema import LabelSet
from chexreason.parsing import AnswerFormat
from chexreason.rewards.base import Reward, Stateful, named_weights, score, scored_labels
from chexreason.rewards.lab import adversaries
from chexreason.statistics.bootstrap import patient_weights
from chexreason.types import Completion, Study

ROLLOUT = 32  # completions a call: the paper's 8 studies of 4
WARM_UP = 16  # calls that fill a memory: 512 completions, where the paper's window holds 100
PAPER_TOKENS = 370  # about the mean length of the paper's completions
BAR = 0.5  # the F1 of the honest answers that no degenerate policy should out-earn


@dataclass(frozen=True)
class Earnings:
    """What a reward pays to N completions: totals [N], unweighted parts [N] and their weights; each one's F1 [N]."""

    total: Tensor
    parts: Mapping[str, Tensor]
    weights: Mapping[str, float]
    f1: Tensor

    @property
    def mean(self) -> float:
        return float(self.total.mean())

    def weighted(self) -> dict[str, float]:
        """What each part contributes to the mean; its plain mean where its weight is 0, which makes it a metric."""
        return {name: float(v.mean()) * (self.weights[name] or 1.0) for name, v in self.parts.items()}


@dataclass(frozen=True)
class Strategy:
    """A way to answer N studies: its name, its completions [N], and whether it is honest or degenerate."""

    name: str
    completions: tuple[Completion, ...]
    honest: bool = False


def earn(
    reward: Reward, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet, *, settled: bool
) -> Earnings:
    """What ``reward`` pays, to ``ROLLOUT`` completions at a time; the reward itself is unchanged.

    Answers to studies without a judged label are left out: N counts the others. With ``settled``, a reward with a
    memory first scores ``WARM_UP`` calls of the same strategy: the result is then what it earns in the long run.
    Raises ValueError where no study has a judged label.
    """
    rated = [i for i, study in enumerate(studies) if any(study.mask)]
    if not rated:
        raise ValueError(
            f"none of the {len(studies)} studies of '{studies[0].dataset}' has a judged label: leave the set out"
        )
    completions, studies = [completions[i] for i in rated], [studies[i] for i in rated]
    reward = copy.deepcopy(reward)
    chunks = [slice(i, i + ROLLOUT) for i in range(0, len(completions), ROLLOUT)]
    before = chunks[:WARM_UP] if settled and isinstance(reward, Stateful) else []
    paid = [score(reward, completions[chunk], studies[chunk], label_set) for chunk in (*before, *chunks)][len(before) :]
    parts = {name: torch.cat([named[name] for _, named in paid]) for name in paid[0][1]}
    weights = named_weights(type(reward).__name__, tuple(parts), reward.weights)
    f1 = torch.tensor([sample_f1(c, s, label_set) for c, s in zip(completions, studies, strict=True)])
    return Earnings(torch.cat([total for total, _ in paid]), parts, weights, f1)


def sample_f1(completion: Completion, study: Study, label_set: LabelSet) -> float:
    """F1 of one answer, 2 |both| / (|true| + |predicted|): 1 where both are none, 0 for an output that is not valid."""
    if not completion.parsed.valid:
        return 0.0
    truth, predicted = scored_labels(completion, study, label_set)
    sizes = len(truth) + len(predicted)
    return 2 * len(truth & predicted) / sizes if sizes else 1.0


def rank_correlation(
    a: Tensor, b: Tensor, owners: Sequence[str], n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's correlation of ``a`` [N] and ``b`` [N] with its 95 % bootstrap interval; NaN where one is constant.

    ``owners`` [N] are resampled, each with all its rows: answers about one patient are not independent.
    """
    _, codes = np.unique(np.asarray(owners), return_inverse=True)  # [N]
    n_owners = int(codes.max()) + 1
    columns = [np.unique(x.double().numpy(), return_inverse=True)[1] for x in (a, b)]  # [N] each
    resamples = chain.from_iterable(patient_weights(n_owners, n_resamples if n_owners > 1 else 0, seed))
    draws = [_spearman(columns, weights[codes]) for weights in resamples]
    defined = [draw for draw in draws if not np.isnan(draw)]
    low, high = np.quantile(defined, (0.025, 0.975)) if defined else (np.nan, np.nan)
    return _spearman(columns, np.ones(len(codes))), float(low), float(high)


def strategies(
    studies: Sequence[Study],
    answer_format: AnswerFormat,
    prompt: str,
    *,
    honest: Iterable[float],
    n_tokens: int = PAPER_TOKENS,
    seed: int = 0,
) -> list[Strategy]:
    """The degenerate strategies except ``best_constant``, and honest ones of the given F1, each on every study.

    Every text but the empty one counts as ``n_tokens`` long: a strategy that ignores the image can write at length.
    """
    label_set, grammar = answer_format.label_set, answer_format.grammar
    prevalence = prevalence_of(studies, label_set)
    generator = torch.Generator().manual_seed(seed)
    drawn = adversaries.prior_answers(prevalence, len(studies), generator)
    texts = {name: [t] * len(studies) for name, t in adversaries.constant_texts(prevalence, prompt, grammar).items()}
    texts["prior"] = [adversaries.listing(labels, grammar) for labels in drawn]
    found = [
        Strategy(name, _completions(texts[name], studies, answer_format, n_tokens))
        for name in adversaries.ADVERSARIES
        if name in texts
    ]
    for f1 in honest:
        named = adversaries.honest_answers(studies, label_set, f1, generator)
        answers = [adversaries.listing(labels, grammar) for labels in named]
        completions = _completions(answers, studies, answer_format, n_tokens)
        found.append(Strategy(honest_name(f1), completions, honest=True))
    return found


def best_paid_labels(reward: Reward, studies: Sequence[Study], answer_format: AnswerFormat) -> tuple[str, ...]:
    """The label set that ``reward`` pays best as the answer to every study.

    Found by adding the best label until none adds anything: not always the best of all sets, never worse than the best
    single label.
    """
    chosen: tuple[str, ...] = ()
    best = -np.inf
    label_set = answer_format.label_set
    for _ in label_set:
        paid = {}
        for label in (label for label in label_set if label not in chosen):
            strategy = constant_strategy("trial", (*chosen, label), studies, answer_format)
            paid[label] = earn(reward, strategy.completions, studies, label_set, settled=True).mean
        top = max(paid, key=lambda label: paid[label])
        if paid[top] <= best:
            break
        chosen, best = (*chosen, top), paid[top]
    return chosen


def constant_strategy(
    name: str,
    labels: Sequence[str],
    studies: Sequence[Study],
    answer_format: AnswerFormat,
    n_tokens: int = PAPER_TOKENS,
) -> Strategy:
    """The strategy that lists ``labels`` for every study."""
    text = adversaries.listing(labels, answer_format.grammar)
    return Strategy(name, _completions([text] * len(studies), studies, answer_format, n_tokens))


def honest_name(f1: float) -> str:
    """The name of the strategy of honest answers of this F1."""
    return f"F1 {f1:g}"


def _completions(
    texts: Sequence[str], studies: Sequence[Study], answer_format: AnswerFormat, n_tokens: int
) -> tuple[Completion, ...]:
    read = {text: answer_format.parse(text) for text in set(texts)}
    return tuple(
        Completion(study.study_id, text, read[text], n_tokens if text else 0)
        for text, study in zip(texts, studies, strict=True)
    )


def _spearman(columns: Sequence[np.ndarray], times: np.ndarray) -> float:
    """Spearman's correlation of two columns [N] of whole numbers from 0 when row n occurs ``times[n]`` times.

    NaN where one of them is constant.
    """
    each = [np.bincount(values, weights=times) for values in columns]  # how often each value occurs
    ranks = [(np.cumsum(n) - n + (n + 1) / 2)[values] for values, n in zip(columns, each, strict=True)]  # mean ranks
    a, b = (x - np.average(x, weights=times) for x in ranks)
    spread = np.sqrt((times * a * a).sum() * (times * b * b).sum())
    return float((times * a * b).sum() / spread) if spread > 1e-12 * len(a) else float("nan")
