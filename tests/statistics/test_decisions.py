"""Decisions as answers: figures against a slow count, coherent sets against all sets, twins that know nothing."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14, PARENT_OF
from chexreason.statistics.bootstrap import seed_mean
from chexreason.statistics.cuts import Target, fit_cuts
from chexreason.statistics.decisions import (
    coherent,
    decided,
    decision_replicates,
    image_blind,
    metadata_scores,
    permuted,
)
from chexreason.statistics.predictions import counts
from chexreason.types import Prediction

FEW = ("Lung Opacity", "Pneumonia", "Edema", "No Finding", "Support Devices", "Cardiomegaly")
RULE = partial(fit_cuts, target=Target("f1"))


def _answers(truth: np.ndarray, labels: tuple[str, ...], mask: np.ndarray | None = None) -> list[Prediction]:
    """All labels named, two studies a patient."""
    mask = np.ones_like(truth) if mask is None else mask
    rows = []
    for i, (true, judged) in enumerate(zip(truth & mask, mask, strict=True)):
        known = tuple(x for x, on in zip(labels, judged, strict=True) if on)
        found = tuple(x for x, on in zip(labels, true, strict=True) if on)
        rows.append(Prediction(f"s{i}", f"p{i // 2:03}", "set", "", known, found, known))
    return rows


def _possible(named: tuple[bool, ...], labels: tuple[str, ...]) -> bool:
    found = {x for x, on in zip(labels, named, strict=True) if on}
    alone = "No Finding" not in found or found <= {"No Finding", "Support Devices"}
    return alone and all(PARENT_OF.get(x, x) in found or PARENT_OF[x] not in labels for x in found)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(FEW), min_size=1), st.integers(0, 10_000))
def test_a_coherent_set_is_the_nearest_of_all_possible_ones(chosen: set[str], seed: int) -> None:
    labels = tuple(x for x in FEW if x in chosen)
    margins = np.random.default_rng(seed).standard_normal((20, len(labels)))
    for row, found in zip(margins, coherent(margins, labels), strict=True):
        cost = {
            named: float(np.abs(row)[np.array(named) != (row >= 0)].sum())
            for named in product((False, True), repeat=len(labels))
            if _possible(named, labels)
        }
        assert cost[tuple(found.tolist())] == pytest.approx(min(cost.values()))


def test_what_is_possible_stays_and_a_finding_beats_no_finding_by_its_margin() -> None:
    labels = CHEXPERT14.labels
    margins = -np.ones((3, 14))
    margins[:2, [labels.index("No Finding"), labels.index("Fracture")]] = [[0.5, 2.0], [2.0, 0.5]]
    found = coherent(margins, labels)
    assert [CHEXPERT14.decode(row) for row in found] == [("Fracture",), ("No Finding",), ()]
    assert (coherent(np.where(found, 1.0, -1.0), labels) == found).all()


def test_figures_of_decisions_equal_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    truth, mask = rng.random((40, 3)) < 0.4, rng.random((40, 3)) < 0.8
    truth[:, 2] = False  # no positive: no sensitivity
    mask[:, 0] |= ~mask.any(axis=1)
    named, labels = rng.random((40, 3)) < 0.5, ("Edema", "Fracture", "Pneumonia")
    rows = decided(_answers(truth, labels, mask), named, labels)
    assert (counts(rows, labels)[0] == (named & mask)).all()
    assert all(set(p.named or ()) >= set(p.predicted) for p in rows)
    sample = decision_replicates(rows, labels, 5, seed=2)
    picks = np.random.default_rng(2).integers(20, size=(5, 20))
    for r, chosen in [(None, np.arange(20)), *enumerate(picks)]:
        studies = [i for k in chosen for i in (2 * k, 2 * k + 1)]
        n, t, m = named[studies], truth[studies], mask[studies]
        expected = {
            "sensitivity": np.mean([n[(t & m)[:, i], i].mean() for i in (0, 1)]),
            "specificity": np.mean([(~n)[(m & ~t)[:, i], i].mean() for i in range(3)]),
            "calls": (n & m).sum() / 40,
            "false_alarms": 100 * (n & m & ~t).sum() / 40,
        }
        got = {name: sample.value[name] if r is None else sample.draws[name][r] for name in expected}
        assert got == pytest.approx(expected)


def test_a_permuted_study_has_another_patients_scores() -> None:
    patients = [f"p{k}" for k in (0, 0, 0, 1, 2, 2, 3)]
    drawn = list(permuted(patients, 20))
    assert all(patients[i] != patients[row] for rows in drawn for i, row in enumerate(rows))
    assert len({tuple(rows) for rows in drawn}) > 12
    with pytest.raises(ValueError, match="scores of one patient cannot be permuted"):
        next(permuted(["p", "p"], 1))
    with pytest.raises(ValueError, match=r"n_permutations=0: .* at least 1"):
        next(permuted(patients, 0))


def test_the_twin_loses_what_the_film_shows_and_a_blind_arm_is_its_own_twin() -> None:
    rng, labels = np.random.default_rng(0), ("Edema", "Fracture", "Pneumonia")
    truth = rng.random((600, 3)) < np.array([0.4, 0.3, 0.2])
    rows = _answers(truth, labels)
    half = rows[:300], rows[300:]
    for gain in (2.0, 0.0):
        scores = rng.standard_normal(truth.shape) + gain * truth
        tuning, scored = (scores[:300], half[0]), (scores[300:], half[1])
        named = (image_blind(RULE, tuning, scored, labels, n=n) for n in (0, 30))
        cut, twin = (
            seed_mean([decision_replicates(decided(half[1], one, labels), labels, 300) for one in of]) for of in named
        )
        skill = cut.value["macro_f1"] - twin.value["macro_f1"]
        assert skill > 0.2 if gain else abs(skill) < 0.05


def test_metadata_alone_know_what_goes_with_the_view_and_what_is_missing_is_named() -> None:
    rng, labels = np.random.default_rng(0), ("Edema", "Fracture")
    ap = rng.random(400) < 0.5
    truth = np.column_stack([rng.random(400) < np.where(ap, 0.8, 0.1), rng.random(400) < 0.3])
    rows = _answers(truth, labels)
    facts = [
        {"view": "AP" if on else "PA", "age": int(a), "sex": ""}
        for on, a in zip(ap, rng.integers(20, 90, 400), strict=True)
    ]
    own, other, missing = metadata_scores(rows, facts, [facts[0], {"view": "LL", "age": None}], labels)
    assert missing == ("sex", "visit")
    assert own[ap, 0].min() > own[~ap, 0].max()
    assert np.isfinite(other).all()
    assert other.shape == (2, 2)
    noise = metadata_scores(rows[::-1], facts, [], labels)[
        0
    ]  # fitted on other patients, facts that fit nothing say nothing
    assert abs(np.corrcoef(noise[:, 1], truth[::-1, 1])[0, 1]) < 0.15
