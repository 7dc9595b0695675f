"""The rewards lab: policies of known skill, what they earn, and whether the reward can tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from chexreason.data.prevalence import prevalence_of
from chexreason.labels.catalog import CHEXPERT14, CHEXPERT_TEST
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.rewards.base import score
from chexreason.rewards.collapse import CollapseWindow
from chexreason.rewards.hard import HardReward
from chexreason.rewards.lab import earnings as lab
from chexreason.rewards.lab.accounts import degenerate_warning
from chexreason.rewards.lab.adversaries import ADVERSARIES, honest_answers, prior_answers
from chexreason.rewards.lab.cohorts import chexpert_cohort, phantom_cohort
from chexreason.rewards.nuanced import NuancedReward
from chexreason.types import Completion, Study
from tests.support.configs import composed

PROMPT = "Answer in this form: <think>your analysis</think>\n<solution>label, label</solution>"
FORMAT = AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION)


@pytest.fixture(scope="module")
def cohort() -> list[Study]:
    return phantom_cohort(CHEXPERT14, n=160)


@pytest.fixture(scope="module")
def earned(cohort: list[Study]) -> dict[str, float]:
    tried = lab.strategies(cohort, FORMAT, PROMPT, honest=[0.3, 0.5, 0.9])
    paid = {p.name: lab.earn(HardReward(), p.completions, cohort, CHEXPERT14, settled=True) for p in tried}
    assert {p.name for p in tried if not p.honest} == set(ADVERSARIES) - {"best_constant"}
    for name in ("F1 0.3", "F1 0.5", "F1 0.9"):
        assert float(paid[name].f1.mean()) == pytest.approx(float(name[3:]), abs=0.01)
    return {name: found.mean for name, found in paid.items()}


@pytest.mark.slow
def test_honest_answers_earn_more_the_better_they_are(earned: dict[str, float]) -> None:
    assert 0 < earned["F1 0.3"] < earned["F1 0.5"] < earned["F1 0.9"] < 1
    assert max(v for k, v in earned.items() if not k.startswith("F1")) < earned["F1 0.5"]


def test_what_degenerate_policies_earn_by_hand(earned: dict[str, float], cohort: list[Study]) -> None:
    sizes = [sum(study.target) for study in cohort]
    assert earned["empty_text"] == earned["empty_list"] == earned["nonsense"] == 0.0
    assert earned["unknown_label"] == earned["copied_prompt"] == 0.0  # every study has a label
    assert earned["all_labels"] == pytest.approx(np.mean([size / 14 for size in sizes]), abs=1e-6)
    column = CHEXPERT14.index("No Finding")
    overlaps = [study.target[column] / size for study, size in zip(cohort, sizes, strict=True)]
    assert earned["no_finding"] == pytest.approx(np.mean(overlaps), abs=1e-6)
    assert earned["repeated_label"] == earned["most_common"]


@pytest.mark.parametrize("f1", [0.0, 0.4, 1.0])
def test_honest_answers_meet_their_f1_and_name_labels_as_often_as_they_are_true(cohort: list[Study], f1: float) -> None:
    studies = cohort * 4
    named = honest_answers(studies, CHEXPERT14, f1, torch.Generator().manual_seed(1))
    assert all(named)
    both = [2 * len({*a} & {*CHEXPERT14.decode(s.target)}) for a, s in zip(named, studies, strict=True)]
    sizes = [len(a) + sum(s.target) for a, s in zip(named, studies, strict=True)]
    assert np.mean([b / n for b, n in zip(both, sizes, strict=True)]) == pytest.approx(f1, abs=0.01 if f1 else 0.05)
    prevalence = prevalence_of(cohort, CHEXPERT14)
    for label in ("Edema", "Support Devices"):
        assert np.mean([label in answer for answer in named]) == pytest.approx(prevalence[label], abs=0.06)
    with pytest.raises(ValueError, match=r"F1 1\.5"):
        honest_answers(studies, CHEXPERT14, 1.5, torch.Generator())
    column = CHEXPERT14.index("Fracture")
    masked = [replace(s, mask=tuple(i != column for i in range(14))) for s in studies if not s.target[column]][:40]
    unjudged = honest_answers(masked, CHEXPERT14, f1, torch.Generator().manual_seed(0))
    assert not any("Fracture" in answer for answer in unjudged)  # nobody earns by what is not judged


def test_prior_answers_follow_the_prevalence() -> None:
    drawn = prior_answers({"Edema": 0.8, "Fracture": 0.1}, 2000, torch.Generator().manual_seed(0))
    assert np.mean(["Edema" in x for x in drawn]) == pytest.approx(0.8, abs=0.03)
    assert np.mean(["Fracture" in x for x in drawn]) == pytest.approx(0.1, abs=0.03)
    assert all(drawn)


def test_the_best_constant_is_the_best_of_all_sets_of_two(study: Callable) -> None:
    truths = [("Edema",), ("Edema", "Fracture"), ("Edema", "Fracture"), ("Pneumonia",)]
    studies = [study(*truth, study_id=f"s{i}") for i, truth in enumerate(truths)]
    # Edema: (1 + 1/2 + 1/2 + 0) / 4; with Fracture: (1/2 + 1 + 1 + 0) / 4; a third label adds nothing
    assert set(lab.best_paid_labels(HardReward(), studies, FORMAT)) == {"Edema", "Fracture"}


def test_a_settled_policy_pays_for_its_collapse_from_the_start_and_the_reward_is_unchanged(study: Callable) -> None:
    studies = [study("Edema", study_id=f"s{i}") for i in range(90)]
    reward = NuancedReward(dict.fromkeys(CHEXPERT14, 0.1), CollapseWindow())
    constant = lab.constant_strategy("x", ["Edema"], studies, FORMAT)
    fresh, settled = (
        lab.earn(reward, constant.completions, studies, CHEXPERT14, settled=choice) for choice in (False, True)
    )
    assert fresh.parts["collapse"][0] == 0.0
    assert settled.parts["collapse"].tolist() == [-200.0] * 90
    assert settled.mean == pytest.approx(150 - 200)
    assert reward.state_dict() == {"collapse": {"window": []}}


def test_parts_are_weighted_and_metrics_are_not(study: Callable) -> None:
    reward = HardReward(weights={"jaccard": 2.0, "length_penalty": 0.0})
    row = lab.constant_strategy("x", ["Edema"], [study("Edema")], FORMAT, n_tokens=9)
    found = lab.earn(reward, row.completions, [study("Edema")], CHEXPERT14, settled=True)
    assert found.weighted() == pytest.approx({"jaccard": 2.0, "length_penalty": -0.1})


def test_f1_of_an_answer_by_hand(study: Callable, answer: Callable) -> None:
    masked = study("Edema", "Pneumonia", unlabelled=("Fracture",))
    assert lab.sample_f1(answer("Edema", "Fracture"), masked, CHEXPERT14) == pytest.approx(2 / 3)
    assert lab.sample_f1(answer(), study(), CHEXPERT14) == 1.0
    assert lab.sample_f1(answer(broken="no_think"), study(), CHEXPERT14) == 0.0


def test_rank_correlation_is_scipys_and_its_interval_is_that_of_explicit_resamples() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 5, (60,), generator=generator).float()
    b = a + torch.randint(0, 4, (60,), generator=generator)
    owners = [f"p{i // 2}" for i in range(60)]
    value, low, high = lab.rank_correlation(a, b, owners, n_resamples=40, seed=3)
    assert value == pytest.approx(spearmanr(a, b).statistic)
    rng, draws = np.random.default_rng(3), []
    order = sorted(set(owners))
    for _ in range(40):
        chosen = [order[i] for i in rng.integers(30, size=30)]
        rows = [row for owner in chosen for row in range(60) if owners[row] == owner]
        draws.append(spearmanr(a[rows], b[rows]).statistic)
    assert (low, high) == pytest.approx(np.quantile(draws, (0.025, 0.975)))
    assert np.isnan(lab.rank_correlation(torch.ones(5), torch.arange(5.0), list("abcde"), 20)).all()  # nothing varies
    value, low, _ = lab.rank_correlation(torch.arange(3.0), torch.arange(3.0), ["a"] * 3, 20)
    assert value == pytest.approx(1.0)
    assert np.isnan(low)


class PaysForSilence:
    """A reward that a policy can have without looking: each label named costs."""

    weights: dict[str, float] = {}  # noqa: RUF012

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: object
    ) -> dict[str, torch.Tensor]:
        return {"silence": torch.tensor([-float(len(c.parsed.labels)) for c in completions])}


def test_a_warning_names_the_policies_that_out_earn_and_their_way_out(cohort: list[Study]) -> None:
    text = degenerate_warning(PaysForSilence(), cohort[:60], FORMAT, PROMPT)
    assert text is not None
    for words in ("PaysForSilence pays", "empty_text 0", "no_finding -1", "F1 0.5 (-", "reward= or its weights"):
        assert words in text
    assert "all_labels" not in text


@pytest.mark.slow
def test_the_hard_reward_is_sound_on_phantoms_and_not_on_chexperts_prevalence(cohort: list[Study]) -> None:
    assert degenerate_warning(HardReward(), cohort, FORMAT, PROMPT) is None
    text = degenerate_warning(HardReward(), chexpert_cohort(CHEXPERT14), FORMAT, PROMPT)
    assert text is not None
    assert "training studies: best_constant 0." in text
    mostly_normal = [s for s in cohort if s.target[CHEXPERT14.index("No Finding")]] * 5 + cohort
    assert "no_finding" in str(degenerate_warning(HardReward(), mostly_normal, FORMAT, PROMPT))


def test_chexperts_counts_are_met_label_by_label_and_normal_goes_with_nothing_but_devices() -> None:
    studies = chexpert_cohort(CHEXPERT14, seed=2)
    assert {k: round(500 * v) for k, v in prevalence_of(studies, CHEXPERT14).items()} == CHEXPERT_TEST
    normal = [CHEXPERT14.decode(s.target) for s in studies if "No Finding" in CHEXPERT14.decode(s.target)]
    assert {label for labels in normal for label in labels} == {"No Finding", "Support Devices"}
    every = lab.constant_strategy("all", CHEXPERT14.labels, studies, FORMAT)
    assert score(HardReward(), every.completions, studies, CHEXPERT14)[0].mean() == pytest.approx(1392 / 14 / 500)


@pytest.mark.slow
def test_the_phantom_cohort_is_the_prepared_data(tmp_path) -> None:
    from chexreason.build.data import build_manifests, load_studies

    n = {"a": "{sft: 1, rl: 12, val: 1, test: 1}", "b": "{val: 1, test: 1}"}  # a split left out keeps its hundreds
    sizes = [f"data.sets.phantom_{name}.source.n={few}" for name, few in n.items()]
    cfg = composed("prepare", f"paths.out={tmp_path}", "data.size=48", *sizes)
    build_manifests(cfg, on_error="stop", workers=1)
    prepared = load_studies(cfg, "phantom_a", ("rl",), CHEXPERT14)
    useful = [(s.study_id, s.patient_id, s.target, s.mask) for s in prepared if any(s.target)]
    assert useful == [(s.study_id, s.patient_id, s.target, s.mask) for s in phantom_cohort(CHEXPERT14, n=12)]
