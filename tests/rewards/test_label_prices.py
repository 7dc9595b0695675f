"""Rewards that price each label: what macro-F1 and the Youden index say an answer is worth, and what a pool becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.schema import LabelSet
from chexreason.rewards.balanced import BalancedReward
from chexreason.rewards.base import score
from chexreason.rewards.macro_f1 import MacroF1Reward
from chexreason.types import Completion, Parsed, Study

TWO = LabelSet("two", ("Edema", "Fracture"))
SHARES = {"Edema": 0.4, "Fracture": 0.1}
sets = st.sets(st.sampled_from(TWO.labels))
rows = st.lists(st.tuples(sets, sets), min_size=1, max_size=30)


def pairs(given, mask=(True, True)):
    """Completions and studies of (truth, named) pairs; None is malformed."""
    answers, studies = [], []
    for truth, named in given:
        labels = () if named is None else tuple(label for label in TWO if label in named)
        answers.append(Completion("s", "t", Parsed(labels, broken="no_solution" if named is None else None), 9))
        studies.append(Study("s", "p", "d", Path("x"), TWO.encode(truth), mask))
    return answers, studies


def totals(reward, given, mask=(True, True)) -> list[float]:
    return score(reward, *pairs(given, mask), TWO)[0].tolist()


def macro_f1(pool) -> float:
    return float(np.mean([2 * right / (positive + named) for _, positive, named, right in pool.values()]))


@settings(max_examples=40, deadline=None)
@given(before=rows, truth=sets, named=sets)
def test_an_answer_is_paid_what_it_adds_to_macro_f1(before, truth, named):
    """The difference that a small share of such answers makes, over that share; answers of nothing add nothing."""
    reward = MacroF1Reward(SHARES, memory=1e9)
    for label, counts in reward.pool.items():  # a pool of these answers beside the prior's
        for right_set, named_set in before:
            marks = (1, label in right_set, label in named_set, label in right_set & named_set)
            reward.pool[label] = counts = [a + 3e7 * b for a, b in zip(counts, marks, strict=True)]
    pool, paid = {label: list(counts) for label, counts in reward.pool.items()}, totals(reward, [(truth, named)])[0]
    n, after = 1e-4 * pool["Edema"][0], {}
    for label, (judged, positive, of_named, right) in pool.items():
        after[label] = [judged, positive, of_named + n * (label in named), right + n * (label in truth & named)]
    assert (macro_f1(after) - macro_f1(pool)) / 1e-4 == pytest.approx(paid, rel=1e-2, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(before=rows, truth=sets, named=sets, more=sets)
@pytest.mark.parametrize("make", [lambda: MacroF1Reward(SHARES), lambda: BalancedReward(SHARES)])
def test_a_better_answer_is_never_paid_less_in_a_call(make, before, truth, named, more):
    better = (named | (more & truth)) - (more - truth)
    worse, best = totals(make(), [*before, (truth, named), (truth, better)])[-2:]
    assert best >= worse
    assert (best > worse) == (better != named)


@settings(max_examples=40, deadline=None)
@given(named=sets)
def test_no_answer_earns_anything_without_the_image_under_inverse_prevalence(named):
    studies = [{label for label in TWO if i % round(1 / SHARES[label] * 2) < 2} for i in range(20)]
    assert [sum(label in truth for truth in studies) / 20 for label in TWO] == list(SHARES.values())
    paid = totals(BalancedReward(SHARES), [(truth, named) for truth in studies])
    assert np.mean(paid) == pytest.approx(0, abs=1e-6)
    assert np.mean(totals(BalancedReward(SHARES), [(truth, truth) for truth in studies])) == pytest.approx(1)


def test_by_hand():
    assert totals(BalancedReward(SHARES), [({"Edema"}, {"Edema", "Fracture"})]) == pytest.approx(
        [(1 / 0.4 - 1 / 0.9) / 2]
    )
    assert totals(BalancedReward(SHARES), [({"Edema"}, {"Edema", "Fracture"})], (True, False)) == pytest.approx(
        [1 / 0.4]
    )
    reward = MacroF1Reward(SHARES, memory=10, start=0.5)
    paid = totals(reward, [({"Edema"}, {"Edema"}), ({"Edema"}, {"Fracture"}), ({"Edema"}, None)])
    # 10 / 13 of the prior's 10, 4, 4, 2 and 10, 1, 1, 0.5; then three answers
    edema, fracture = [40 / 13 + 3, 40 / 13 + 1, 20 / 13 + 1], [10 / 13, 10 / 13 + 1, 5 / 13]
    f1 = [2 * right / (positive + named) for positive, named, right in (edema, fracture)]
    half = [(positive + named) / 2 / (100 / 13 + 3) for positive, named, _ in (edema, fracture)]
    assert paid == pytest.approx([(1 - f1[0] / 2) / half[0] / 2, -f1[1] / 2 / half[1] / 2, -1.0])


def test_labels_that_are_not_judged_are_in_no_pool():
    judged, all_of_them = MacroF1Reward(SHARES), MacroF1Reward(SHARES)
    totals(judged, [({"Edema"}, {"Edema", "Fracture"})], (True, False))
    totals(all_of_them, [({"Edema"}, {"Edema", "Fracture"})])
    assert judged.pool["Fracture"] == MacroF1Reward(SHARES).pool["Fracture"] != all_of_them.pool["Fracture"]
    assert judged.pool["Edema"] == all_of_them.pool["Edema"]


@pytest.mark.parametrize("reward", [MacroF1Reward, BalancedReward])
def test_wrong_numbers_are_refused(reward):
    for wrong in ({"floor": 0.0}, {"floor": 0.6}, {"prevalence": {"Edema": 1.2}}, {"weights": {"exact": 1}}):
        with pytest.raises(ValueError, match=r"floor=|in 0\.\.1|no part"):
            reward(**{"prevalence": SHARES, **wrong})
    with pytest.raises(ValueError, match=r"no training prevalence for \['Fracture'\], which study 's' labels"):
        totals(reward({"Edema": 0.1}), [({"Edema"}, {"Edema"})])
    with pytest.raises(ValueError, match="memory=0"):
        MacroF1Reward(SHARES, memory=0)
    with pytest.raises(ValueError, match="but the prevalence is of"):
        MacroF1Reward(SHARES).load_state_dict({"pool": {"Edema": [1, 1, 1, 1]}})
