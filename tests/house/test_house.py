"""The house rules, checked: who may import whom, how long a file may be, that the README's tree is the tree."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "chexreason"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room may import rooms of its own level and below.
LEVELS = (
    {"types", "files", "errors", "progress", "confdir", "quiet", "renames"},
    {"labels", "parsing", "prompts"},
    {"data", "phantom", "traces", "statistics"},
    {"rewards", "model", "audit", "review"},
    {"preflight"},
    {"training", "reports"},
    {"grpo"},
    {"build", "runs", "sweep"},
    {"cli"},
)
LEVEL = {room: i for i, rooms in enumerate(LEVELS) for room in rooms}
PURE = ("labels/", "parsing.py", "rewards/", "grpo/advantages.py", "grpo/objective.py", "statistics/")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> set[str]:
    """Every module a file imports when it runs."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "chexreason" and len(parts) > 1 and parts[1] in LEVEL else None


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports(path):
        if (other := room(module)) is not None:
            assert LEVEL[other] <= LEVEL[own], f"{own} imports {module}"


@pytest.mark.parametrize("path", [p for p in FILES if name(p).startswith(PURE)], ids=name)
def test_pure_rooms_import_neither_lightning_nor_hydra(path):
    heavy = {m.split(".")[0] for m in imports(path)} & {"lightning", "hydra", "omegaconf", "transformers", "peft"}
    assert not heavy


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_config_stops_at_the_door(path):
    if name(path).startswith(("cli/", "build/")) or name(path) == "runs.py":
        return
    assert not any(m.split(".")[0] in {"omegaconf", "hydra"} for m in imports(path))


def test_only_build_instantiates():
    assert [name(p) for p in FILES if any(m.startswith("hydra.utils") for m in imports(p))] == ["build/data.py"]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def test_there_are_no_junk_drawers():
    banned = {"utils", "helpers", "common", "core", "misc"}
    assert not [name(p) for p in PACKAGE.rglob("*") if p.stem in banned]


def test_every_config_opens_with_what_it_is_and_how_to_run_it():
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        lines = [line for line in lines if line.strip() != "# @package _global_"]
        assert lines[0].startswith("# "), path
        assert lines[0].rstrip().endswith((".", ":", ";")) or lines[1].startswith("#"), path


def test_the_readme_prints_the_tree():
    readme = (ROOT / "README.md").read_text()
    rooms = {p.name + ("/" if p.is_dir() else "") for p in PACKAGE.iterdir() if not p.name.startswith("__")}
    missing = [r for r in sorted(rooms) if r not in readme]
    assert not missing, f"README's tree lacks {missing}"
