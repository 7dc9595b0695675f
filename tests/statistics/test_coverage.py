"""Intervals against a known truth: the small version of ``make bench-coverage``."""

from __future__ import annotations

import pytest

from benchmarks.coverage import WORLDS, coverage
from tests.support.deep import all_deep_but

SPREAD = [world for world in WORLDS if "mixed" in world or "high" in world or "five" in world]


@pytest.mark.parametrize("world", all_deep_but(SPREAD[0], SPREAD))
def test_intervals_hold_the_truth_as_often_as_the_reports_say(world: str) -> None:
    found = coverage(*WORLDS[world], n=100, n_sets=200, seed=7)  # 4 standard errors of 0.95: 0.06
    assert found["macro_f1"] > 0.89
    assert found["micro_f1"] > 0.87
    assert found["change in macro_f1"] > 0.85
    if "mixed" in world:
        assert found["plain"] < 0.85  # what is mended: the percentile interval without smoothing
