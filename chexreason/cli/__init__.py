"""The commands, one a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra

from chexreason.confdir import confdir
from chexreason.errors import friendly, known_choices


def command(*kinds: type[BaseException]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function of a config as the command of its file, which reads ``conf/<verb>.yaml``.

    Its errors of ``kinds``, and of wrong values, keys and files, are one line each. ``--help`` prints the config, and a
    choice that does not exist stops it before Hydra does.
    """

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        configured = hydra.main(
            version_base="1.3", config_path=confdir(), config_name=Path(body.__code__.co_filename).stem
        )
        return known_choices(configured(friendly(ValueError, KeyError, OSError, *kinds)(body)))

    return decorate
