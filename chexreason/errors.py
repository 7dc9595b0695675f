"""Errors at the door: what a user can mend is one line, everything else keeps its traceback."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unicodedata import category

from chexreason.confdir import choices, confdir
from chexreason.files import without_secrets
from chexreason.signals import PREEMPTED, Stopped, continues

RENAMED_GROUPS = {"answers": "sft_answers", "traces": "teacher_instruction"}  # old name of a folder of conf/: new one
RENAMED_CHOICES = {  # what a choice was, and what is said now
    "phase=tiny/sft": "phase=sft size=tiny_sft",
    "phase=tiny/grpo": "phase=grpo size=tiny_grpo",
    "phase=paper/sft": "phase=sft",
    "phase=paper/grpo": "phase=grpo",
}


def printable(text: object) -> str:
    """``text`` of any origin with an escape for all that a terminal obeys; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" or category(c) == "Zs" else ascii(c)[1:-1] for c in str(text))


class PrintableRecord(logging.LogRecord):
    """A record of the log whose message is ``printable``."""

    def getMessage(self) -> str:
        return printable(super().getMessage())


@contextmanager
def friendly(*kinds: type[BaseException]) -> Iterator[None]:
    """Ends the process with ``error: message`` and exit status 1 on errors of these kinds in the block.

    With CHEXREASON_TRACEBACK=1 the traceback is shown as well. Ctrl-C ends with status 130, and a signal under
    ``signals.raised`` with PREEMPTED; both say that the same command continues.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted: {continues()} from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    except Stopped as stopped:
        print(f"{stopped}: stopped; {continues()}", file=sys.stderr)
        raise SystemExit(PREEMPTED) from None
    except kinds as error:
        if os.environ.get("CHEXREASON_TRACEBACK"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {printable(without_secrets(str(text)))}", file=sys.stderr)
        raise SystemExit(1) from None


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """``": did you mean <closest>?"`` where one of ``choices`` is close to ``word``, else an empty string.

    The last part of a choice with slashes is compared as well: ``only_labl`` finds ``table2/only_label``.
    """
    ends = {part: choice for choice in sorted(choices, reverse=True) for part in (choice.rpartition("/")[2], choice)}
    close = difflib.get_close_matches(str(word), ends, n=1, cutoff=0.6)
    return f": did you mean {ends[close[0]]}?" if close else ""


def unknown_choices(arguments: Sequence[str]) -> list[str]:
    """A line for each ``group=choice`` or ``group@package=choice`` of a command that names no file under ``conf/``.

    A group, its keys or a choice that have another name now are answered with it.
    """
    if any(word.startswith(("--config", "-c", "hydra.searchpath", "+hydra.searchpath")) for word in arguments):
        return []  # configs of the user's own are looked for elsewhere too
    faults = []
    for word in arguments:
        group, _, value = word.lstrip("+").partition("=")
        group, at, package = group.partition("@")
        above, dot, key = group.partition(".")
        if above in RENAMED_GROUPS and (value or dot):
            now, mark = f"{RENAMED_GROUPS[above]}{dot}{key}", "" if dot else "="
            faults.append(f"{group}{mark} is now {now}{mark}: say {now}{at}{package}={value}")
        if f"{group}={value}" in RENAMED_CHOICES:
            faults.append(f"there is no {group}={value} any more: say {RENAMED_CHOICES[f'{group}={value}']}")
            continue
        if not value or not group or not (Path(confdir()) / group).is_dir():
            continue
        known = choices(group)
        for choice in value.split(","):
            if choice not in known and choice != "null" and not set(choice) & set("[]{}()$'\""):
                shown = did_you_mean(choice, known) or f"; choose one of: {', '.join(sorted(known))}"
                faults.append(f"there is no {group}={choice}{shown}")
    return faults
