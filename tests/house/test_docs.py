"""What the guides name exists: linked files, Makefile targets, modules, files; and every command of theirs composes."""

from __future__ import annotations

import re
import shlex
from fnmatch import filter as matching
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from chexreason.cli import as_meant
from chexreason.confdir import confdir
from chexreason.errors import unknown_choices

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "tools").rglob("*.md")),
]
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
MADE_BY_READERS = {"conf/reward/mine.yaml"}  # a guide asks its reader to write it
CHOSEN_BY_READERS = {"reward=mine", "+reward@rewards.mine=mine", "data=mine", "data=my"}

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|^ {4}\S[^\n]*|`[^`]+`", re.DOTALL | re.MULTILINE)
MAKE = re.compile(r"(?:^|[`(#]) *make ([a-z][\w*-]*)", re.MULTILINE)
COMMAND = re.compile(r"(?:python -m chexreason\.cli\.|\bchexreason )([a-z]+)\b([^`\n]*)")
MODULE = re.compile(r"\b(?:chexreason|tools|benchmarks)\.[a-z]\w*(?:\.\w+)*")
FILE = re.compile(r"\b(?:chexreason|conf|tests|tools|benchmarks|docs|notebooks)/[\w/.-]*\w|\b[a-z]\w*/\w+\.py\b")

every_guide = pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))


def code(path: Path) -> str:
    """The code blocks and code spans of a guide, one after the other."""
    return "\n".join(CODE.findall(path.read_text()))


def resolves(module: str) -> bool:
    """True where ``module`` is a module, or a name in one (``package.module.Class``)."""
    stem, _, rest = module.rpartition(".")
    for name, inside in ((module, ""), (stem, rest)):
        folder = ROOT.joinpath(*name.split("."))
        for file in (folder.with_suffix(".py"), folder / "__init__.py"):
            if file.is_file() and re.search(rf"\b{inside}\b", file.read_text()):
                return True
    return False


@every_guide
def test_every_relative_link_resolves(path):
    links = [link.partition("#")[0] for link in LINK.findall(path.read_text()) if "://" not in link]
    assert not [link for link in links if not (path.parent / link).exists()]


@every_guide
def test_every_make_target_exists(path):
    assert not [target for target in MAKE.findall(code(path)) if not matching(TARGETS, target)]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Verb and arguments of each command in code, of a multirun those of its first job; ``...`` stands for any."""
    found = []
    for verb, rest in COMMAND.findall(re.sub(r" *\\\n *", " ", text)):
        words = [word for word in shlex.split(rest, comments=True) if word not in ("&", "-m", "--multirun")]
        if (ROOT / "conf" / f"{verb}.yaml").is_file() and all("=" in word for word in words):
            whole = [word for word in words if not word.endswith("=...") and word not in CHOSEN_BY_READERS]
            found.append((verb, [word if set(word) & set("[{(") else word.partition(",")[0] for word in whole]))
    return found


@every_guide
def test_every_command_composes(path, monkeypatch):
    for name in ("MIMIC_ROOT", "CHEXPERT_ROOT", "NIH_ROOT", "OOD_ROOT", "OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, f"/{name}")
    for verb, words in commands(code(path)):
        words = [as_meant(word) for word in words]
        with initialize_config_dir(confdir(), version_base="1.3"):
            assert unknown_choices(words) == [], f"{verb} {words}"
            compose(verb, words)


@every_guide
def test_every_module_exists(path):
    assert not [module for module in MODULE.findall(code(path)) if not resolves(module)]


@every_guide
def test_every_file_exists(path):
    named = set(FILE.findall(code(path))) - MADE_BY_READERS
    assert not [name for name in sorted(named) if not any((at / name).exists() for at in (ROOT, ROOT / "chexreason"))]


def test_the_index_links_every_guide():
    index = (DOCS / "README.md").read_text()
    assert not [path.name for path in DOCS.glob("*.md") if path.name != "README.md" and f"]({path.name})" not in index]


def test_the_checks_find_what_is_wrong(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`make nowhere`\n\n```\nmake demo\npython -m chexreason.cli.nothing\n```\n\n    make lost # `make lint`\n"
    )
    assert MAKE.findall(code(page)) == ["nowhere", "demo", "lost", "lint"]
    assert [resolves(m) for m in (*MODULE.findall(code(page)), "chexreason.types.Study")] == [False, True]
