"""The sampler: shares wherever they can be had, patients kept apart, the same rows whatever the order."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.data.sampling import draw_samples, subset
from chexreason.types import Study

SIZES = {"sft": 2, "rl": 1}


@st.composite
def pools(draw, n_rows, n_labels):
    """Marks [N, L] and the patient of each row, for up to so many rows and labels."""
    n, labels = draw(st.integers(1, n_rows)), draw(st.integers(1, n_labels))
    patients = draw(st.integers(1, n))
    bits = draw(st.lists(st.integers(0, 2**labels - 1), min_size=n, max_size=n))
    owner = draw(st.lists(st.integers(0, patients - 1), min_size=n, max_size=n))
    return (np.array(bits)[:, None] >> np.arange(labels) & 1).astype(bool), [f"p{i}" for i in owner]


def keys(n: int) -> list[str]:
    return [f"x:{i}" for i in range(n)]


def drawn(positive, sizes, min_share=0.05, seed=0):
    """A draw from images of one patient each."""
    return draw_samples(positive, keys(len(positive)), keys(len(positive)), sizes, min_share, seed)


def best_by_hand(positive, patient, sizes, goal) -> int | None:
    """The least total shortfall over every possible draw; None when no draw fills the samples."""
    best, owner = None, np.unique(patient, return_inverse=True)[1]
    for assigned in product(range(-1, len(sizes)), repeat=len(positive)):
        sample = np.array(assigned)
        full = all((sample == s).sum() == n for s, n in enumerate(sizes.values()))
        if not full or (~positive.any(axis=1) & (sample >= 0)).any():
            continue
        if any(len(set(sample[(owner == p) & (sample >= 0)])) > 1 for p in range(owner.max() + 1)):
            continue
        lacking = sum(np.maximum(0, goal[s] - positive[sample == s].sum(0)).sum() for s in range(len(sizes)))
        best = lacking if best is None else min(best, lacking)
    return best


@given(pools(6, 3), st.sampled_from([0.3, 0.5, 1.0]), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
@pytest.mark.slow
def test_no_draw_of_a_small_pool_does_better(pool, min_share, seed):
    positive, patient = pool
    goal = np.zeros((2, positive.shape[1]))
    left = positive.sum(0)
    for s, n in enumerate(SIZES.values()):
        goal[s] = np.minimum(np.ceil(min_share * n), left)
        left = left - goal[s]
    best = best_by_hand(positive, patient, SIZES, goal)
    if best is None:
        with pytest.raises(ValueError, match="ask"):
            draw_samples(positive, patient, keys(len(positive)), SIZES, min_share, seed)
        return
    found = draw_samples(positive, patient, keys(len(positive)), SIZES, min_share, seed)
    np.testing.assert_array_equal(found.goal, goal)
    assert np.maximum(0, found.goal - found.count).sum() == best
    assert found.optimal


@given(pools(20, 5), st.sampled_from([0.05, 0.2, 0.5]), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_the_rows_drawn_do_not_depend_on_their_order(pool, min_share, seed, random):
    positive, patient = pool
    names, where = keys(len(positive)), list(range(len(positive)))
    random.shuffle(where)
    before = positive.copy()
    other = positive[where], [patient[i] for i in where], [names[i] for i in where]
    try:
        one = draw_samples(positive, patient, names, SIZES, min_share, seed)
    except ValueError:
        with pytest.raises(ValueError, match="ask for less"):
            draw_samples(*other, SIZES, min_share, seed)
        return
    np.testing.assert_array_equal(draw_samples(*other, SIZES, min_share, seed).sample, one.sample[where])
    np.testing.assert_array_equal(positive, before)


@given(pools(25, 4), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_samples_are_full_disjoint_by_patient_and_counted_right(pool, seed):
    positive, patient = pool
    try:
        found = draw_samples(positive, patient, keys(len(positive)), SIZES, 0.3, seed)
    except ValueError:
        return
    owner = np.array(patient)
    assert [(found.sample == s).sum() for s in range(2)] == list(SIZES.values())
    assert not set(owner[found.sample == 0]) & set(owner[found.sample == 1])
    assert positive[found.sample >= 0].any(axis=1).all()
    np.testing.assert_array_equal(found.count, [positive[found.sample == s].sum(0) for s in range(2)])


@given(st.integers(0, 5), st.integers(1, 40), st.sampled_from([0.05, 0.07, 0.1]))
@settings(max_examples=10, deadline=None)
def test_every_label_the_pool_has_enough_of_meets_its_share_by_greed_alone(seed, scarce, min_share):
    """Ten labels of at most a tenth each cannot get in one another's way when patients have one image."""
    rng = np.random.default_rng(seed)
    positive = rng.random((1000, 10)) < np.array([scarce / 1000, *[0.02] * 4, *[0.3] * 5])
    found = drawn(positive, {"sft": 100, "rl": 50}, min_share, seed)
    usable = positive.any(axis=1)
    enough = positive[usable].sum(axis=0) >= 150 * min_share + 2
    assert (found.count[:, enough] >= min_share * np.array([[100], [50]]) - 1e-9).all()
    assert (found.count >= found.goal).all()


# Two images must have A, B, C and D: AB with CD. The commonest label leads greed to AD or to a single one first.
PAIRS = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)


def test_where_greed_fails_the_exact_search_finds_the_draw():
    found = drawn(PAIRS, {"sft": 2}, 0.5)
    assert found.sample.tolist() == [-1, -1, 0, -1, 0]
    assert found.optimal


def test_a_search_that_meets_its_limit_leaves_the_greedy_draw_and_says_so(monkeypatch):
    monkeypatch.setattr("chexreason.data.cover._solve", lambda *args: (np.full(5, -1), False))
    found = drawn(PAIRS, {"sft": 2}, 0.5)
    assert (found.sample == 0).sum() == 2
    assert (found.count < found.goal).any()
    assert not found.optimal


def test_a_large_pool_is_searched_near_the_short_label_alone(monkeypatch):
    looked_at = []
    monkeypatch.setattr("chexreason.data.cover.EXACT_ROWS", 4)
    monkeypatch.setattr("chexreason.data.cover._solve", lambda marks, *_: looked_at.append(len(marks)) or (None, True))
    found = drawn(PAIRS, {"sft": 2}, 0.5)
    assert 2 < looked_at[0] < 5
    assert not found.optimal


def test_over_represented_labels_are_avoided():
    """Natural prevalence 50:1; the sample comes out level, with the seldom label far over its share."""
    positive = np.zeros((1020, 2), dtype=bool)
    positive[:1000, 0], positive[1000:, 1] = True, True
    assert drawn(positive, {"sft": 40}).count.tolist() == [[20, 20]]


def test_of_equal_images_seeds_choose_and_a_patient_s_second_comes_after_every_first():
    positive = np.ones((1000, 1), dtype=bool)
    found = draw_samples(positive, [f"p{i // 10}" for i in range(1000)], keys(1000), {"sft": 100}, 0.05, 0)
    assert len({i // 10 for i in np.flatnonzero(found.sample == 0)}) == 100
    one, again, other = (drawn(positive, {"sft": 100}, 0.07, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.sample, again.sample)
    assert (one.sample != other.sample).any()
    assert one.goal.tolist() == [[7]]  # a share is a decimal number


@pytest.mark.parametrize(
    ("patient", "sft", "rl", "message"),
    [
        ("abcd", 3, 2, "3 sft and 2 rl are asked for; the pool has 3 images with a positive label, of 3"),
        ("aaaa", 2, 1, "2 sft and 1 rl without a patient in two of them: not possible with 3 images"),
    ],
)
def test_more_than_the_pool_has_is_refused(patient, sft, rl, message):
    positive = np.array([[1], [1], [1], [0]], dtype=bool)
    with pytest.raises(ValueError, match=message):
        draw_samples(positive, list(patient), keys(4), {"sft": sft, "rl": rl}, 0.05, 0)


@pytest.mark.slow
def test_a_pool_with_many_patterns_meets_every_share():
    rng = np.random.default_rng(0)
    positive = rng.random((30_000, 14)) < rng.uniform(0.005, 0.3, 14)
    patient = [f"p{i}" for i in rng.integers(0, 8_000, 30_000)]
    found = draw_samples(positive, patient, keys(30_000), {"sft": 200, "rl": 100}, 0.05, 0)
    assert (found.count >= 0.05 * np.array([[200], [100]])).all()


def test_a_subset_is_drawn_by_seed_from_everywhere_and_keeps_the_order():
    studies = [Study(f"s{i:03d}", f"p{i}", "set", Path("x.png"), (), ()) for i in range(200)]
    drawn = subset(studies, 50, 0)
    assert len(drawn) == 50
    assert [s.study_id for s in drawn] == sorted(s.study_id for s in drawn)
    assert drawn != subset(studies, 50, 1)
    assert sum(s.study_id < "s100" for s in drawn) in range(15, 36)
    assert subset(studies, None, 0) == studies == subset(studies, 500, 0)
