"""Kappa against scikit-learn, the Wilson interval against scipy, word distance against its definition."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from chexreason.statistics.kappa import cohen_kappa, kappa, share, word_distance

VERDICTS = ("accept", "edit", "reject")
verdicts = st.sampled_from(VERDICTS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(verdicts, verdicts), min_size=1, max_size=30))
def test_kappa_is_that_of_scikit_learn(pairs):
    first, second = zip(*pairs, strict=True)
    found = kappa(first, second, [str(i) for i in range(len(pairs))], n_resamples=5)
    if len({*first, *second}) == 1:
        assert found["value"] is None  # scikit-learn gives NaN
    else:
        assert found["value"] == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert found["observed"] == pytest.approx(np.mean([a == b for a, b in pairs]))


def test_the_interval_resamples_patients_not_traces():
    rng = np.random.default_rng(0)
    first = rng.choice(VERDICTS, 60).tolist()
    second = [a if rng.random() < 0.7 else str(rng.choice(VERDICTS)) for a in first]
    single = kappa(first, second, [str(i) for i in range(60)], 4000)
    assert single["low"] < single["value"] < single["high"]
    # the plain bootstrap, drawn independently
    codes = np.array([[VERDICTS.index(a), VERDICTS.index(b)] for a, b in zip(first, second, strict=True)])
    draws = []
    for _ in range(2000):
        table = np.zeros((3, 3))
        np.add.at(table, tuple(codes[rng.integers(60, size=60)].T), 1)
        draws.append(cohen_kappa(table))
    assert [single["low"], single["high"]] == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.02)
    # every trace four times over is no more evidence, as long as it stays with its patient
    again = kappa(first * 4, second * 4, [str(i) for i in range(60)] * 4, 4000)
    assert again == pytest.approx(single | {"n": 240})


def test_what_is_not_defined_is_none():
    alike = kappa(["accept"] * 3, ["accept"] * 3, ["a", "b", "c"], 10)
    assert (alike["value"], alike["low"], alike["high"], alike["observed"]) == (None, None, None, 1.0)
    one = kappa(["accept", "edit"], ["accept", "reject"], ["a", "a"], 10)
    assert one["value"] is not None
    assert one["low"] is None
    with pytest.raises(ValueError, match="0, 0, 0"):
        kappa([], [], [])
    assert share(0, 0)["rate"] is None


words = st.lists(st.sampled_from(["heart", "lung", "clear", "large"]), max_size=7)


@settings(max_examples=50, deadline=None)
@given(words, words)
def test_word_distance_is_levenshtein(a, b):
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert word_distance(" ".join(a), "\n ".join(b)) == distance(len(a), len(b))


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 7), (45, 50), (7, 7), (500, 1000)])
def test_the_wilson_interval_is_that_of_scipy(k, n):
    found, oracle = share(k, n), binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (found["rate"], found["low"], found["high"]) == pytest.approx((k / n, oracle.low, oracle.high), abs=1e-12)
