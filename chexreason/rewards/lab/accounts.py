"""The rewards lab in rows: what a reward pays to each policy or to given answers, beside their F1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from chexreason.labels.schema import LabelSet
from chexreason.parsing import AnswerFormat
from chexreason.rewards.base import Reward, scored_labels
from chexreason.rewards.lab import earnings as lab
from chexreason.rewards.lab.answers import Answers
from chexreason.statistics.metrics import averages, confusion
from chexreason.types import Completion, Study

Row = dict[str, Any]
LOOKED_AT = 128  # studies, at most, before training


def policy_table(
    reward: Reward,
    tried: Sequence[lab.Strategy],
    studies: Sequence[Study],
    answer_format: AnswerFormat,
    n_tokens: int,
) -> dict[str, Any]:
    """What each policy earns, and its F1: honest ones first, best paid first, those that out-earn ``BAR`` marked.

    ``best_constant``, the labels this reward pays best to every study, is added to ``tried``. ``rank_correlation`` is
    Spearman's, over policies, of what they earn with what it should pay for; None where one of them is constant.
    """
    labels = lab.best_paid_labels(reward, studies, answer_format)
    best = lab.constant_strategy("best_constant", labels, studies, answer_format, n_tokens)
    rows = [_policy_row(reward, strategy, studies, answer_format.label_set) for strategy in (*tried, best)]
    bar = next(row["reward"] for row in rows if row["policy"] == lab.honest_name(lab.BAR))
    for row in rows:
        row["out_earns"] = not row["honest"] and row["reward"] > bar
    rows.sort(key=lambda row: (row["honest"], row["reward"]), reverse=True)
    columns = {name: torch.tensor([row[name] for row in rows]) for name in ("reward", "sample_f1", "macro_f1")}
    names, earned = [row["policy"] for row in rows], columns.pop("reward")
    ranks = {k: lab.rank_correlation(earned, column, names, n_resamples=0)[0] for k, column in columns.items()}
    return {"best_constant": list(labels), "rank_correlation": _defined(ranks), "rows": rows}


def degenerate_warning(
    reward: Reward, studies: Sequence[Study], answer_format: AnswerFormat, prompt: str
) -> str | None:
    """The degenerate strategies that earn more than honest answers of F1 ``BAR`` on (some of) ``studies``, or None.

    Takes a few seconds and leaves the reward as it was.
    """
    looked = studies[:: -(-len(studies) // LOOKED_AT)]  # evenly spaced
    tried = lab.strategies(looked, answer_format, prompt, honest=[lab.BAR])
    table = policy_table(reward, tried, looked, answer_format, lab.PAPER_TOKENS)
    above = ", ".join(f"{row['policy']} {row['reward']:.4g}" for row in table["rows"] if row["out_earns"])
    if not above:
        return None
    return (
        f"{type(reward).__name__} pays policies that look at no image more than honest answers of F1 {lab.BAR:g} "
        f"({table['rows'][0]['reward']:.4g}) on {len(looked)} training studies: {above} (best_constant: "
        f"{', '.join(table['best_constant'])}). Change reward= or its weights, or balance the training set; python -m "
        "chexreason.cli.rewards shows what it pays for"
    )


def answers_row(reward: Reward, own: Answers, label_set: LabelSet, n_resamples: int, seed: int) -> Row:
    """The mean and parts that given answers are paid, and its rank correlation with their F1, with 95 % interval.

    ``n`` answers are scored: those of the ``n_studies`` with a judged label. Raises ValueError where there is none.
    """
    paid = lab.earn(reward, own.completions, own.studies, label_set, settled=False)
    owners = [study.patient_id for study in own.studies if any(study.mask)]
    value, low, high = lab.rank_correlation(paid.total, paid.f1, owners, n_resamples, seed)
    row = {"n": len(owners), "n_studies": len(own.studies), "reward": paid.mean, "sample_f1": float(paid.f1.mean())}
    return row | _defined({"rank_correlation": value, "low": low, "high": high}) | _parts(paid)


def _policy_row(reward: Reward, strategy: lab.Strategy, studies: Sequence[Study], label_set: LabelSet) -> Row:
    paid = lab.earn(reward, strategy.completions, studies, label_set, settled=True)
    row = {"policy": strategy.name, "honest": strategy.honest, "reward": paid.mean}
    scores = {"sample_f1": float(paid.f1.mean())} | _label_f1(strategy.completions, studies, label_set)
    return row | scores | _parts(paid)


def _label_f1(completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet) -> dict[str, float]:
    """Macro and micro F1 over the labels that some study judges, as every table of the house scores them."""
    pairs = [scored_labels(c, s, label_set) for c, s in zip(completions, studies, strict=True)]
    truth = np.array([label_set.encode(true) for true, _ in pairs], dtype=bool)  # [N, L]
    pred = np.array([label_set.encode(named) for _, named in pairs], dtype=bool)  # [N, L]
    mask = np.array([study.mask for study in studies], dtype=bool)  # [N, L]
    means = averages(confusion(pred, truth, mask).sum(0), np.asarray(mask.any(0)))
    return {name: float(means[name]) for name in ("macro_f1", "micro_f1")}


def _parts(paid: lab.Earnings) -> Row:
    """Mean contribution of each part; a part of weight 0 is a metric, with its plain mean."""
    each = paid.weighted()
    return {
        "parts": {name: value for name, value in each.items() if paid.weights[name]},
        "metrics": {name: value for name, value in each.items() if not paid.weights[name]},
    }


def _defined(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
