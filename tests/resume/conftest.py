"""The data of the runs that are ended here, and what they leave when nothing ends them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import ARMS, SETS, Command, resumed


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("data")
    Command(out, "prepare", "audit=false", *SETS).done()
    return f"paths.data={out}/data"


@pytest.fixture(scope="session")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """``whole(arm)``: what an unbroken run without loader workers leaves."""
    known: dict[str, dict[str, bytes]] = {}

    def left(arm: str) -> dict[str, bytes]:
        if arm not in known:
            known[arm] = resumed(tmp_path_factory.mktemp(arm), *ARMS[arm], data)
        return known[arm]

    return left


@pytest.fixture
def train(data: str, tmp_path: Path) -> Callable[..., Command]:
    """``train(arm, *overrides)`` starts a run of the arm in this test's folder."""
    return lambda arm, *overrides, **kwargs: Command(tmp_path, "train", *ARMS[arm], data, *overrides, **kwargs)
