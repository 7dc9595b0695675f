"""constraints.txt names the tested set: every declared package, at a version that pyproject.toml allows."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PINNED = {
    canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#") and (requirement := Requirement(line))
}


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, and what `make` and the benchmarks install besides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in project["dependencies"] + extras["dev"] + extras["bench"] + extras["docs"]]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_every_declared_package_is_pinned_within_its_bounds(requirement):
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_the_tested_set_fits_any_build_of_torch():
    assert Version(PINNED["torch"]).local is None
    assert not [name for name in PINNED if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_these_tests_run_on_the_tested_set():
    stamp = Path(sys.prefix) / ".installed"
    if not stamp.is_file() or stamp.read_text().strip() == "1":
        pytest.skip("not the environment of `make` without LATEST=1")
    differ = {}
    for name, pinned in PINNED.items():
        try:
            installed = Version(version(name)).public
        except PackageNotFoundError:
            continue  # of the extra `bench`
        if Version(installed) != Version(pinned):
            differ[name] = (installed, pinned)
    assert not differ, "remove .venv, or write the tested set anew by `make constraints`"
