"""Where the configuration lives: inside the package in a wheel, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path


def confdir() -> str:
    """Absolute path of ``conf/``; raises FileNotFoundError naming both places when neither has it."""
    package = Path(__file__).resolve().parent
    places = (package / "conf", package.parent / "conf")
    for place in places:
        if (place / "train.yaml").is_file():
            return str(place)
    raise FileNotFoundError(f"no conf/train.yaml in {places[0]} or {places[1]}: reinstall chexreason")
