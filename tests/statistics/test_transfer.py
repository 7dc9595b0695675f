from __future__ import annotations

import math
from dataclasses import replace

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.statistics.bootstrap import Interval, paired, replicates
from chexreason.statistics.permutation import holm
from chexreason.statistics.predictions import datasets
from chexreason.statistics.transfer import transfer_report

FAST = {"n_resamples": 300, "n_permutations": 300}


@pytest.fixture
def arms(make_arm) -> dict:
    return {"base": [make_arm(0.55)], "sft": [make_arm(0.75)], "grpo": [make_arm(0.8)]}


def test_every_pair_at_home_and_away_as_the_bootstrap_gives_them(arms: dict) -> None:
    report = transfer_report(arms, CHEXPERT14, "phantom_a", ["phantom_b"], **FAST)
    assert [(s.before, s.after) for s in report.steps] == [("base", "sft"), ("base", "grpo"), ("sft", "grpo")]
    assert report.n_tests == 6
    a, b = (replicates(datasets(arms[arm][0])["phantom_b"], NIH9.labels, 300) for arm in ("base", "sft"))
    step = report.steps[0]
    assert step.away.difference == paired(a, b)["macro_f1"]
    assert step.away.retained.value == pytest.approx(b.value["macro_f1"] / a.value["macro_f1"])
    assert step.away.retained.low < step.away.retained.value < step.away.retained.high
    assert step.gap.value == pytest.approx(step.away.difference.value - step.home.difference.value)
    assert step.gap.low < step.gap.value < step.gap.high
    changes = [change for s in report.steps for change in (s.home, s.away)]
    assert [change.p_holm for change in changes] == holm([change.p for change in changes])
    assert step.away.p_holm > step.away.p
    assert report.scores["sft"]["phantom_b"].value == pytest.approx(b.value["macro_f1"])


def test_changes_are_of_the_labels_that_all_sets_judge_and_scores_of_each_sets_own(arms: dict) -> None:
    """An arm that improves at home on the labels alone that the other hospital never judges has gained nothing."""

    def better(p):
        extra = (x for x in p.truth if x not in NIH9.labels)
        wrong = {x for x in p.predicted if x not in NIH9.labels and x not in p.truth}
        return replace(p, predicted=tuple(sorted({*p.predicted, *extra} - wrong)))

    arms = {"sft": arms["sft"], "grpo": [[better(p) for p in arms["sft"][0]]]}
    report = transfer_report(arms, CHEXPERT14, "phantom_a", ["phantom_b"], **FAST)
    (step,) = report.steps
    assert report.labels == NIH9.labels
    assert step.home.difference == step.gap == Interval(0, 0, 0)
    assert step.home.p == 1
    assert report.scores["grpo"]["phantom_a"].value > report.scores["sft"]["phantom_a"].value + 0.1
    (alone,) = transfer_report(arms, CHEXPERT14, "phantom_a", ["phantom_a"], **FAST).steps
    assert alone.home.difference.low > 0.05


def test_an_arm_against_itself_changes_nothing_and_is_no_discovery(arms: dict) -> None:
    twins = {"a": arms["sft"], "b": arms["sft"]}
    (step,) = transfer_report(twins, CHEXPERT14, "phantom_a", ["phantom_b"], **FAST).steps
    assert step.home.difference == Interval(0, 0, 0)
    assert step.home.retained == Interval(1, 1, 1)
    assert (step.home.p, step.away.p_holm) == (1, 1)


def test_the_gap_of_independent_hospitals_is_as_wide_as_both_together(arms: dict) -> None:
    """The same draw numbers at home and away must not cancel: width^2 adds up, it does not subtract."""
    both = []
    for arm, (rows,) in arms.items():
        twins = [replace(p, study_id="t" + p.study_id, patient_id="t" + p.patient_id, dataset="twin") for p in rows]
        home = [p for p in rows if p.dataset == "phantom_a"]
        both.append((arm, [[*home, *(p for p in twins if p.study_id.startswith("tphantom_a"))]]))
    step = transfer_report(dict(both), CHEXPERT14, "phantom_a", ["twin"], **FAST).steps[0]
    alone, gap = step.home.difference, step.gap
    assert gap.value == pytest.approx(0)
    assert 1.15 < (gap.high - gap.low) / (alone.high - alone.low) < 1.7  # sqrt(2) in expectation


def test_seeds_are_averaged_and_unequal_numbers_of_them_give_no_p(make_arm) -> None:
    arms = {"base": [make_arm(0.6)], "sft": [make_arm(0.7), make_arm(0.75)], "grpo": [make_arm(0.8), make_arm(0.85)]}
    report = transfer_report(arms, CHEXPERT14, "phantom_a", ["phantom_b"], **FAST)
    singles = [replicates(datasets(rows)["phantom_a"], CHEXPERT14.labels, 10).value["macro_f1"] for rows in arms["sft"]]
    assert report.scores["sft"]["phantom_a"].value == pytest.approx(sum(singles) / 2)
    assert [math.isnan(step.home.p) for step in report.steps] == [True, True, False]
    assert report.n_tests == 2


def test_an_arm_without_a_set_and_arms_on_other_studies_are_refused(arms: dict) -> None:
    with pytest.raises(ValueError, match="base lacks nih; sft lacks nih; grpo lacks nih; evaluate these arms"):
        transfer_report(arms, CHEXPERT14, "phantom_a", ["nih"], **FAST)
    arms["grpo"] = [arms["grpo"][0][1:]]
    with pytest.raises(ValueError, match="evaluated on different studies"):
        transfer_report(arms, CHEXPERT14, "phantom_a", ["phantom_b"], **FAST)
    arms["grpo"] = [[replace(p, policy="ones") for p in arms["sft"][0]]]
    with pytest.raises(ValueError, match=r"label policy differs: 'not recorded' in base/0, sft/0 \| 'ones' in grpo/0"):
        transfer_report(arms, CHEXPERT14, "phantom_a", ["phantom_b"], **FAST)
