"""Where the configuration lives: inside the package in a wheel, beside it in a checkout."""

from __future__ import annotations

import re
from pathlib import Path


def confdir() -> str:
    """Absolute path of ``conf/``; raises FileNotFoundError naming both places when neither has it."""
    package = Path(__file__).resolve().parent
    places = (package / "conf", package.parent / "conf")
    for place in places:
        if (place / "train.yaml").is_file():
            return str(place)
    raise FileNotFoundError(f"no conf/train.yaml in {places[0]} or {places[1]}: reinstall chexreason")


def choices(group: str) -> list[str]:
    """The names that ``group=`` takes: the files of ``conf/<group>/``, those in folders under it with their folder."""
    folder = Path(confdir()) / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def command_help(command: str) -> str:
    """What ``--help`` prints: a command's config as it is written, those it extends, and the choices of its groups.

    The comments of ``conf/<command>.yaml`` are the only description of a command's settings.
    """
    text = (Path(confdir()) / f"{command}.yaml").read_text(encoding="utf-8")
    extended = [name for name in re.findall(r"^  - (\w+)$", text, re.MULTILINE) if name != "_self_"]
    groups = dict.fromkeys(re.findall(r"^  - (?:optional )?([a-z]\w*)(?:@[\w.]+)?:", text, re.MULTILINE))
    listed = "".join(f"# {group}={' | '.join(choices(group))}\n" for group in groups)
    pages = [f"{text}\n{listed}# Every setting, composed: --cfg job\n"]
    return "\n".join([*pages, *(f"# As {name}:\n{command_help(name)}" for name in extended)])
