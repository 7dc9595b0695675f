"""Long series of one test: one representative in every test run, the rest in ``make test-deep``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def all_deep_but(kept: Any, cases: Iterable[Any]) -> list[Any]:
    """The parameters of a series, all but ``kept`` marked as deep."""
    cases = list(cases)
    assert kept in cases, f"{kept!r} is none of {cases}"
    return [case if case == kept else pytest.param(case, marks=pytest.mark.deep) for case in cases]
