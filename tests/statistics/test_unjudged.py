"""Studies without a judged label: no mean, interval or reward changes when they are added, and n says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import AnswerFormat, Grammar, format_answer
from chexreason.reports.cases import choose_cases
from chexreason.reports.payload import study_figures
from chexreason.reports.provenance import common_ground
from chexreason.rewards.balanced import BalancedReward
from chexreason.rewards.base import AcrossRanks, score
from chexreason.rewards.collapse import CollapseWindow
from chexreason.rewards.hard import HardReward
from chexreason.rewards.lab import accounts, earnings
from chexreason.rewards.lab.answers import Answers
from chexreason.rewards.macro_f1 import MacroF1Reward
from chexreason.rewards.mix import MixReward
from chexreason.rewards.nuanced import NuancedReward
from chexreason.statistics.bootstrap import intervals, patient_totals, replicates
from chexreason.statistics.comparable import basis, set_facts
from chexreason.statistics.metrics import confusion, label_f1
from chexreason.statistics.predictions import counts
from chexreason.statistics.ranking import ranking_replicates
from chexreason.statistics.rate_matched import split_change
from chexreason.statistics.transfer import transfer_report
from chexreason.statistics.trivial import trivial_rows
from chexreason.training.callbacks.label_f1 import LabelF1
from chexreason.training.datamodule import StudyData
from chexreason.types import Completion, Parsed, Prediction, Sample, Study

LABELS = CHEXPERT14.labels
N = 24
PLACES = st.lists(st.integers(0, N), min_size=1, max_size=8)


def _answers(seed: int) -> list[Prediction]:
    """N answers to studies of 12 patients, each judged on some labels, at least one."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(99)
    rows = []
    for i in range(N):
        judged = [label for label in LABELS if truth.random() < 0.6] or [LABELS[0]]
        true = tuple(label for label in judged if truth.random() < 0.4)
        named = tuple(label for label in judged if (label in true) == (rng.random() < 0.7))
        broken = "no_solution" if rng.random() < 0.1 else None
        rows.append(Prediction(f"s{i}", f"p{i // 2}", "set", "", named, true, tuple(judged), broken, i))
    return rows


def _with(rows: list, places: list[int], extra) -> list:
    """``rows`` with unjudged ones at ``places``; ``extra(k)`` makes the k-th."""
    found = list(rows)
    for k, place in enumerate(places):
        found.insert(place, extra(k))
    return found


def _unjudged(k: int) -> Prediction:
    """An answer to a study of which nothing is judged, of a patient of its own or of one with other studies."""
    broken = "no_solution" if k % 3 == 0 else None
    return Prediction(f"u{k}", f"p{k}" if k % 2 else f"new{k}", "set", "", (), (), (), broken, 900)


def _label_f1(rows: list[Prediction]) -> dict[str, float]:
    pred, truth, mask = counts(rows, LABELS)
    failed = np.array([p.broken is not None for p in rows])
    metric = LabelF1(LABELS)
    metric.update(pred, truth, mask, failed, [p.study_id for p in rows])
    found = label_f1(confusion(pred, truth, mask), mask, failed, LABELS)
    assert {k: pytest.approx(v.item()) for k, v in metric.compute().items()} == found
    assert found.pop("n") == len(rows)
    return found


def _trivial(rows: list[Prediction]) -> object:
    _, truth, mask = counts(rows, LABELS)
    return trivial_rows(truth, mask, LABELS, dict.fromkeys(LABELS, 0.3), n_draws=3)


def _scores(rows: list[Prediction]) -> np.ndarray:
    return np.array([np.random.default_rng(list(p.study_id.encode())).random(len(LABELS)) for p in rows])


FIGURES = {
    "bootstrap": lambda rows: intervals(replicates(rows, LABELS, 50)),
    "permutation": lambda rows: patient_totals(rows, LABELS).tolist(),
    "metrics": _label_f1,
    "trivial": _trivial,
    "ranking": lambda rows: intervals(ranking_replicates(_scores(rows), rows, LABELS, n_resamples=20)),
    "split": lambda rows: intervals(split_change((_scores(rows), rows), (-_scores(rows), rows), LABELS, 20)),
    "cases": lambda rows: choose_cases({"a": rows}, 100),
}


@pytest.mark.parametrize("name", FIGURES)
@settings(max_examples=10, deadline=None)
@given(places=PLACES)
def test_they_change_no_figure(name, places) -> None:
    rows = _answers(1)
    assert str(FIGURES[name](_with(rows, places, _unjudged))) == str(FIGURES[name](rows))  # str: NaN equals itself


def test_the_report_and_the_transfer_are_as_without_them_and_say_how_many() -> None:
    def arms(places: list[int]) -> dict[str, list[Prediction]]:
        there = {arm: _with(_answers(seed), places, _unjudged) for arm, seed in (("sft", 1), ("grpo", 2))}
        other = [replace(p, study_id=f"b{p.study_id}", patient_id=f"b{p.patient_id}", dataset="b") for p in _answers(3)]
        return {arm: rows + other for arm, rows in there.items()}

    some, none = (study_figures(arms(places), CHEXPERT14, {}, n_resamples=30) for places in ([0, 7, 24], []))
    counted = [[by_set["set"].pop("n_studies") for by_set in found["arms"].values()] for found in (some, none)]
    assert counted == [[N + 3] * 2, [N] * 2]
    assert all(str(some[part]) == str(none[part]) for part in ("arms", "trivial", "paired", "common"))
    runs = {arm: [rows] for arm, rows in arms([3, 3]).items()}
    plain = {arm: [rows] for arm, rows in arms([]).items()}
    reports = [transfer_report(a, CHEXPERT14, "set", ["b"], n_resamples=20, n_permutations=50) for a in (runs, plain)]
    assert reports[0] == reports[1]
    facts = set_facts(arms([0]), CHEXPERT14)
    said = "set, 14 labels of chexpert14, of 25 studies 24 with a judged label, data"
    assert said in basis(facts)
    assert said in common_ground(arms([0]), ["set"], CHEXPERT14, {}).sentence()
    assert "of 24 studies" not in basis(facts)  # all of b's are judged


def test_a_set_of_them_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no label of the 3 studies of 'set' is judged.*leave the set out"):
        replicates([_unjudged(k) for k in range(3)], LABELS)


class Share:
    """A reward of one's own that looks at the whole batch, remembers it, and does not ask what is judged."""

    def __init__(self) -> None:
        self.weights, self.seen = {"share": 2.0}, 0

    def __call__(self, completions, studies, label_set):
        self.seen += len(completions)
        named = torch.tensor([float(len(c.parsed.labels)) for c in completions])
        return {"share": named / named.sum().clamp(min=1.0) + self.seen}


def _rewards() -> dict:
    def nuanced():
        return NuancedReward(dict.fromkeys(LABELS, 0.2), CollapseWindow(20, 0.3))

    prices = dict.fromkeys(CHEXPERT14, 0.1)
    return {"hard": HardReward, "nuanced": nuanced, "own": Share,
            "macro_f1": lambda: MacroF1Reward(prices), "balanced": lambda: BalancedReward(prices),
            "mix": lambda: MixReward({"a": nuanced(), "b": HardReward(), "c": Share()}, {"b": 0.5})}  # fmt: skip


def _pairs(rows: list[Prediction]) -> tuple[list[Completion], list[Study]]:
    named = [p.predicted or LABELS[:2] for p in rows]
    completions = [Completion(p.study_id, "", Parsed(n), 300) for p, n in zip(rows, named, strict=True)]
    masks = [tuple(label in p.labelled for label in LABELS) for p in rows]
    found = zip(rows, masks, strict=True)
    studies = [Study(p.study_id, p.patient_id, "set", Path(), CHEXPERT14.encode(p.truth), mask) for p, mask in found]
    return completions, studies


@pytest.mark.parametrize("name", ["hard", "nuanced", "own", "mix", "macro_f1", "balanced"])
@settings(max_examples=10, deadline=None)
@given(places=PLACES)
def test_they_earn_nothing_and_change_no_other_reward(name, places) -> None:
    alone, mixed = _rewards()[name](), _rewards()[name]()
    rows = _answers(1)
    more = _with(rows, places, _unjudged)
    judged = torch.tensor([bool(p.labelled) for p in more])
    for _ in range(2):  # what the reward remembers is as without them too
        expected, parts = score(alone, *_pairs(rows), CHEXPERT14)
        total, found = score(mixed, *_pairs(more), CHEXPERT14)
        assert total[judged].tolist() == expected.tolist()
        assert not total[~judged].any()
        assert {k: v[judged].tolist() for k, v in found.items()} == {k: v.tolist() for k, v in parts.items()}


@pytest.mark.parametrize("name", ["hard", "nuanced", "macro_f1", "balanced"])
def test_a_reward_called_by_itself_pays_nothing_for_them(name) -> None:
    parts = _rewards()[name]()(*_pairs([_unjudged(1), _unjudged(2)]), CHEXPERT14)
    assert not any(values.any() for values in parts.values())


def test_ranks_leave_them_out_after_they_have_gathered(monkeypatch) -> None:
    """One process that stands for two: a filter before the gathering would mix up the groups."""
    own, other = _pairs([_answers(1)[0], _unjudged(0)]), _pairs(_answers(1)[4:6])

    def gather(ranks: list, mine: list) -> None:
        assert len(mine) == 2
        ranks[:] = [mine, list(zip(*other, strict=True))]

    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    total, _ = score(AcrossRanks(inner := Share(), group_size=1), *own, CHEXPERT14)
    assert inner.seen == 3
    assert total[0] > 3
    assert total[1] == 0


def test_the_rewards_lab_counts_the_judged() -> None:
    answer_format = AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION)

    def of(rows: list[Prediction]) -> Answers:
        completions, studies = _pairs(rows)
        texts = [format_answer("x", c.parsed.labels) for c in completions]
        read = [Completion(c.study_id, t, answer_format.parse(t), 300) for c, t in zip(completions, texts, strict=True)]
        return Answers(tuple(read), tuple(studies))

    some, none = (of(_with(_answers(1), places, _unjudged)) for places in ([24, 25, 26, 27], []))
    rows = [accounts.answers_row(HardReward(), answers, CHEXPERT14, 20, 0) for answers in (some, none)]
    assert [row.pop("n_studies") for row in rows] == [N + 4, N]
    assert rows[0] == rows[1]
    assert rows[0]["n"] == N
    tried = earnings.strategies(some.studies, answer_format, "read", honest=[0.5], seed=1)
    honest = next(s for s in tried if s.honest)
    paid = earnings.earn(HardReward(), honest.completions, some.studies, CHEXPERT14, settled=True)
    assert (len(paid.total), float(paid.f1.mean())) == (N, pytest.approx(0.5, abs=0.05))
    with pytest.raises(ValueError, match="none of the 2 studies of 'set' has a judged label"):
        accounts.answers_row(HardReward(), of([_unjudged(0), _unjudged(1)]), CHEXPERT14, 20, 0)


def test_they_are_not_trained_on() -> None:
    studies = _pairs([_answers(1)[0], _unjudged(1)])[1]
    with pytest.raises(ValueError, match=r"1 of 2 training studies have no judged label, e\.g\. u1"):
        StudyData(None, [Sample(s, "x") for s in studies], {}, batch_size=1, eval_batch_size=1)


def test_what_is_outside_the_mask_counts_neither_for_nor_against() -> None:
    """Partly masked: true is Edema, judged are Edema and Fracture; the same answer beside three unjudged labels."""
    row = Prediction("s", "p", "set", "", ("Edema",), ("Edema",), ("Edema", "Fracture"))
    wide = replace(row, predicted=("Edema", "Pneumonia", "No Finding", "Support Devices"))
    for make in (_rewards()["hard"], _rewards()["nuanced"]):
        assert score(make(), *_pairs([row]), CHEXPERT14)[0] == score(make(), *_pairs([wide]), CHEXPERT14)[0]
    parts = score(_rewards()["nuanced"](), *_pairs([wide]), CHEXPERT14)[1]
    assert {name: float(v) for name, v in parts.items() if v} == {"exact": 100.0, "partial": 50.0, "jaccard": 1.0}
    wrong = score(_rewards()["nuanced"](), *_pairs([replace(wide, predicted=("Fracture", "Pneumonia"))]), CHEXPERT14)[1]
    assert float(wrong["false_positive"]) == pytest.approx(-18.0)  # Fracture alone
