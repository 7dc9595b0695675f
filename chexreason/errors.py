"""Errors at the door: what a user can mend is one line, everything else keeps its traceback."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from unicodedata import category

from chexreason.confdir import choices, confdir
from chexreason.files import without_secrets
from chexreason.signals import continues

RENAMED_ARGUMENTS = {  # how an argument began, and what is said now
    "answers": "sft_answers",
    "traces": "teacher_instruction",
    "phase=tiny/sft": "phase=sft size=tiny_sft",
    "phase=tiny/grpo": "phase=grpo size=tiny_grpo",
    "phase=paper/sft": "phase=sft",
    "phase=paper/grpo": "phase=grpo",
}


def printable(text: object) -> str:
    """``text`` of any origin with an escape for all that a terminal obeys; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" or category(c) == "Zs" else ascii(c)[1:-1] for c in str(text))


class PrintableRecord(logging.LogRecord):
    """A record of the log whose message is ``printable`` and names no key."""

    def getMessage(self) -> str:
        return printable(without_secrets(super().getMessage()))


@contextmanager
def friendly(*kinds: type[BaseException]) -> Iterator[None]:
    """Ends the process with ``error: message`` and exit status 1 on errors of these kinds in the block.

    With CHEXREASON_TRACEBACK=1 the traceback is shown as well. Ctrl-C ends with status 130, and it is said that the
    same command continues.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted: {continues()} from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    except kinds as error:
        if os.environ.get("CHEXREASON_TRACEBACK"):
            print(printable(without_secrets(traceback.format_exc())), file=sys.stderr)
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


def unknown_key(key: str, known: Sequence[str]) -> str:
    """That there is no setting ``key``, with the closest of the ``known`` ones.

    That is one of the same name elsewhere (``trainer.max_epochs``: ``phase.max_epochs``), one beside it of which it is
    the long form (``phase.learning_rate``: ``phase.lr``), or one that is spelled nearly so.
    """
    place, _, name = key.rpartition(".")
    initials = "".join(word[0] for word in name.split("_") if word)
    beside = [other for other in known if other.rpartition(".")[0] == place]
    meant = [other for other in beside if other.rpartition(".")[2] == initials]
    meant += sorted((other for other in known if other.rpartition(".")[2] == name), key=len)
    near = f": did you mean {meant[0]}?" if meant else did_you_mean(key, beside) or did_you_mean(key, known)
    return f"there is no setting {key}{near or f'; +{key}= adds one that a library takes'}"


def unknown_choices(arguments: Sequence[str]) -> list[str]:
    """A line for each argument of a command that Hydra could not read as it was meant, with what to write instead.

    That is ``group=choice`` or ``group@package=choice`` that names no file under ``conf/`` (``null`` never does), a
    value with ``=`` outside quotes, and what has another name now.
    """
    if any(word.startswith(("--config", "-c", "hydra.searchpath", "+hydra.searchpath")) for word in arguments):
        return []  # configs of the user's own are looked for elsewhere too
    return [fault for word in arguments if "=" in word for fault in _misread(word)]


def _misread(word: str) -> Iterator[str]:
    for old, new in RENAMED_ARGUMENTS.items():
        if re.match(rf"\+*{old}([.@=]|$)", word):
            yield f"{old} is now {new}: say {word.lstrip('+').replace(old, new, 1)}"
            return
    name, _, value = word.lstrip("+").partition("=")
    group = name.partition("@")[0]
    if not group or group.startswith("-") or set(value) & set("[]{}()$'\""):
        return
    if "=" in value:
        yield f"{name}={value}: a value with = stands in quotes, as in '{name}=\"{value}\"'"
    if not value or group.startswith("hydra/") or not (Path(confdir()) / group).is_dir():
        return  # Hydra has choices of its own
    yield from (fault for choice in value.split(",") if (fault := _wrong_choice(group, choice)))


def _wrong_choice(group: str, choice: str) -> str | None:
    """What is wrong with ``group=choice``, and what to write or install instead; None where it is right."""
    known = choices(group)
    if choice == "null":
        return f"there is no {group}=null: leave {group}= out, or take it away with ~{group}"
    if choice not in known:
        listed = f"; choose one of: {', '.join(known)}"
        return f"there is no {group}={choice}" + (did_you_mean(choice, known) or listed)
    missing = _missing_plugin(Path(confdir()) / group / f"{choice}.yaml")
    return missing and f"{group}={choice} needs a plugin of Hydra: pip install {missing}"


def _missing_plugin(choice: Path) -> str | None:
    """The plugin of Hydra that the header of a config names, where it is not installed."""
    for name in re.findall(r"pip install (hydra-[\w-]+)", choice.read_text(encoding="utf-8")):
        try:
            distribution(name)
        except PackageNotFoundError:
            return str(name)
    return None
