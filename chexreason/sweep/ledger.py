"""The ledger of a study: what was started, what ended and how, one JSON line an event; it outlives every sweep."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chexreason.files import write_text

RUNNING, DONE, FAILED, CUT, BLOCKED = STATES = ("running", "done", "failed", "cut", "blocked")
LOCK = "SWEEP.lock"
log = logging.getLogger(__name__)


class SweepError(RuntimeError):
    """A study's folder cannot be used as asked; the message names it and the way out."""


@contextmanager
def only_sweep(study: Path) -> Iterator[None]:
    """Hold a study's folder; the lock goes with the process. Raises SweepError where another sweep has it."""
    study.mkdir(parents=True, exist_ok=True)
    with (study / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SweepError(f"{study} is in use by another sweep: wait for it, or choose another name=") from None
        yield


class Ledger:
    """Events by ``digest``, the hash of a run's config; the newest one is a run's state.

    An event holds ``digest``, ``job``, ``state`` (one of STATES), ``time`` (s since 1970) and what is known then:
    ``run_dir``, ``log``, ``seed``, ``seconds``, ``metrics``, ``error``. Lines that are no event are moved to
    ``<path>.corrupt`` and said, so that the next line starts clean.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: dict[str, list[dict[str, Any]]] = {}
        text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        read = [(line, _event(line)) for line in text.splitlines()]
        for _, event in read:
            if event is not None:
                self.events.setdefault(event["digest"], []).append(event)
        self.corrupt = [line for line, event in read if event is None]
        self.torn = not text.endswith("\n") and bool(text)  # the next event would continue the last line

    def mend(self) -> None:
        """Move the corrupt lines aside; only for the process that holds the study."""
        if not self.corrupt and not self.torn:
            return
        if self.corrupt:
            aside = self.path.with_name(self.path.name + ".corrupt")
            with aside.open("a") as file:
                file.writelines(line + "\n" for line in self.corrupt)
            log.warning("%d lines of %s are no events: moved to %s", len(self.corrupt), self.path, aside)
        kept = [event for events in self.events.values() for event in events]
        write_text(self.path, "".join(json.dumps(event) + "\n" for event in sorted(kept, key=lambda e: e["time"])))
        self.corrupt, self.torn = [], False

    def record(self, digest: str, state: str, **facts: Any) -> None:
        """Append one event, on the disk before this returns."""
        event = {"digest": digest, "state": state, "time": time.time(), **facts}
        line = json.dumps(event).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.events.setdefault(digest, []).append(event)

    def last(self, digest: str) -> Mapping[str, Any]:
        """The newest event of a run; empty where it has none."""
        return self.events.get(digest, [{}])[-1]

    def done(self, job: str) -> Mapping[str, Any]:
        """The newest end of a job that succeeded, under whatever config; empty where it has none."""
        ends = (e for events in self.events.values() for e in events if e["state"] == DONE and e.get("job") == job)
        return max(ends, key=lambda event: event["time"], default={})

    def failures(self, digest: str) -> int:
        """How often a run failed since it was last done."""
        states = [event["state"] for event in self.events.get(digest, [])]
        since = len(states) - states[::-1].index(DONE) if DONE in states else 0
        return states[since:].count(FAILED)

    def seconds(self, kind: str) -> float | None:
        """Mean seconds of the finished runs of one kind, all their attempts together; None where none has finished."""
        spent = [
            sum(event.get("seconds", 0.0) for event in events)
            for events in self.events.values()
            if events[-1]["state"] == DONE and events[-1].get("kind") == kind
        ]
        return sum(spent) / len(spent) if spent else None


def _event(line: str) -> dict[str, Any] | None:
    """The event a line holds, or None."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("state") not in STATES:
        return None
    texts, numbers = (event.get("digest"), event.get("job", "")), (event.get("time"), event.get("seconds", 0.0))
    sound = all(isinstance(text, str) for text in texts)
    return event if sound and all(isinstance(n, float) and math.isfinite(n) for n in numbers) else None
