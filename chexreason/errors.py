"""Errors at the door: what a user can mend is one line, everything else keeps its traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def friendly(*kinds: type[BaseException]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """A command whose errors of these kinds end as ``error: message`` and exit status 1.

    With CHEXREASON_TRACEBACK=1 the traceback is shown as well. Ctrl-C ends with status 130 and says that the same
    command continues.
    """

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(command)
        def run(*args: object, **kwargs: object) -> T:
            try:
                return command(*args, **kwargs)
            except KeyboardInterrupt:
                print("\ninterrupted: the same command continues from the last checkpoint", file=sys.stderr)
                raise SystemExit(130) from None
            except kinds as error:
                if os.environ.get("CHEXREASON_TRACEBACK"):
                    raise
                text = error.args[0] if isinstance(error, KeyError) and error.args else error
                print(f"error: {text}", file=sys.stderr)
                raise SystemExit(1) from None

        return run

    return decorate
