"""The review on disk: one SQLite file, which holds a decision before the page confirms it.

Decisions are only ever added, each in a transaction of its own (write-ahead log, synced): a killed server, a power cut
and two readers at once lose nothing that was confirmed. The latest row of a reader and trace counts.
"""

from __future__ import annotations

import os
import random
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from pathlib import Path

from chexreason.owners import remove_leftovers
from chexreason.review.decision import WITHDRAWN, Decision
from chexreason.traces.trace import Trace

_COLUMNS = ", ".join(f.name for f in fields(Decision))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS drawn (n INTEGER NOT NULL, seed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sample (position INTEGER PRIMARY KEY, study_id TEXT, prompt TEXT, text_sha256 TEXT);
CREATE TABLE IF NOT EXISTS link (reviewer TEXT PRIMARY KEY, token TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS decision (number INTEGER PRIMARY KEY AUTOINCREMENT, {_COLUMNS});
"""
_PATIENCE = 10.0  # seconds to wait for another process that is writing
_SHOWN = 3


class ReviewStore:
    """The review kept at ``path``, which is made, readable by its owner only, where it is missing.

    Every method raises OSError, naming the file, where SQLite cannot read or write it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(0o700, parents=True, exist_ok=True)  # what is exported beside it holds the same texts
        remove_leftovers(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with self._open() as db:
            db.executescript(_SCHEMA)

    def sample(self, traces: Sequence[Trace], n: int, seed: int) -> list[Trace]:
        """The traces under review: the first call draws them from ``traces``, later calls return the same ones.

        Raises ValueError where the review was begun with another ``n`` or ``seed``, or where traces of its sample are
        missing from ``traces`` or have other words now.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")  # two servers that start at once draw once
            begun = db.execute("SELECT n, seed FROM drawn").fetchone()
            if begun is None:
                drawn = draw_sample(traces, n, seed)
                db.execute("INSERT INTO drawn VALUES (?, ?)", (n, seed))
                rows = [(i, *trace.key, trace.text_sha256) for i, trace in enumerate(drawn)]
                db.executemany("INSERT INTO sample VALUES (?, ?, ?, ?)", rows)
                return drawn
            kept = db.execute("SELECT study_id, prompt, text_sha256 FROM sample ORDER BY position").fetchall()
        if begun != (n, seed):
            raise ValueError(
                f"the review in {self.path} was begun with n={begun[0]} seed={begun[1]}, not n={n} seed={seed}: "
                f"go on with those, or begin another one with name="
            )
        by_key = {trace.key: trace for trace in traces}
        missing = [f"{study} / {prompt}" for study, prompt, _ in kept if (study, prompt) not in by_key]
        there = [(by_key[study, prompt], sha256) for study, prompt, sha256 in kept if (study, prompt) in by_key]
        changed = [" / ".join(trace.key) for trace, sha256 in there if trace.text_sha256 != sha256]
        if missing or changed:
            raise ValueError(
                f"the traces are not those that the review in {self.path} was begun with: of {len(kept)} sampled, "
                f"{len(missing)} are missing ({'; '.join(missing[:_SHOWN])}) and {len(changed)} have other words "
                f"({'; '.join(changed[:_SHOWN])}). Give the file it was begun with, or begin another one with name="
            )
        return [trace for trace, _ in there]

    def links(self, reviewers: Sequence[str], renew: bool = False) -> dict[str, str]:
        """The secret token of each reader: the same at every start, unless ``renew`` makes all older ones void."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            if renew:
                db.execute("DELETE FROM link")
            for reviewer in reviewers:
                db.execute("INSERT OR IGNORE INTO link VALUES (?, ?)", (reviewer, secrets.token_urlsafe(24)))
            tokens = dict(db.execute("SELECT reviewer, token FROM link").fetchall())
        return {reviewer: tokens[reviewer] for reviewer in reviewers}

    def add(self, decision: Decision) -> None:
        """Stores ``decision``; it is on disk when the call returns."""
        with self._open() as db:
            marks = ", ".join("?" * len(fields(Decision)))
            db.execute(f"INSERT INTO decision ({_COLUMNS}) VALUES ({marks})", astuple(decision))

    def decisions(self, reviewer: str | None = None) -> list[Decision]:
        """The decision that counts of each reader and trace, oldest first; of one ``reviewer`` where one is named."""
        with self._open() as db:
            latest = "SELECT MAX(number) FROM decision GROUP BY reviewer, study_id, prompt"
            rows = db.execute(f"SELECT {_COLUMNS} FROM decision WHERE number IN ({latest}) ORDER BY number").fetchall()
        found = [Decision(*row) for row in rows]
        return [d for d in found if d.verdict != WITHDRAWN and reviewer in (None, d.reviewer)]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own, committed when the block ends without an error."""
        try:
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                with db:
                    yield db
        except sqlite3.Error as error:
            raise OSError(f"cannot use the review in {self.path}: {error}") from error


def draw_sample(traces: Sequence[Trace], n: int, seed: int) -> list[Trace]:
    """``n`` of ``traces`` (all, where there are fewer), balanced over labels, in random order.

    One trace at a time, for the label that the sample has least of (the rarer one first where they tie), so every
    label is present once ``n`` reaches their number; a patient who is not in the sample yet goes first. The result
    depends on the traces and the seed, not on the order of the file. Raises ValueError where ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"a review needs at least one trace, n={n}")
    rng = random.Random(seed)
    shuffled = sorted(traces, key=lambda trace: trace.key)
    rng.shuffle(shuffled)
    supply = Counter(label for trace in shuffled for label in trace.strata)
    queues = {label: [trace for trace in shuffled if label in trace.strata] for label in sorted(supply)}
    drawn: dict[tuple[str, str], Trace] = {}
    have: Counter[str] = Counter()
    patients: set[str] = set()
    while len(drawn) < min(n, len(shuffled)):
        queues = {label: left for label, q in queues.items() if (left := [t for t in q if t.key not in drawn])}
        label = min(queues, key=lambda name: (have[name], supply[name], name))
        chosen = next((t for t in queues[label] if t.patient_id not in patients), queues[label][0])
        drawn[chosen.key] = chosen
        have.update(chosen.strata)
        patients.add(chosen.patient_id)
    sample = list(drawn.values())
    rng.shuffle(sample)  # else the rare labels all come first
    return sample
