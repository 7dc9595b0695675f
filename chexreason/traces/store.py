"""The database of a trace run: it stores each request before it is sent, and each response before it is parsed."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexreason.labels.schema import LabelSet
from chexreason.owners import locked, remove_leftovers
from chexreason.traces.ask import Reply
from chexreason.traces.verify import Fault
from chexreason.types import Study

SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS identity (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS study (
  study_id TEXT PRIMARY KEY, position INTEGER NOT NULL, patient_id TEXT NOT NULL, dataset TEXT NOT NULL,
  image_path TEXT NOT NULL, image_sha256 TEXT NOT NULL, labels TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS request (
  id INTEGER PRIMARY KEY, study_id TEXT NOT NULL REFERENCES study, attempt INTEGER NOT NULL,
  sent_at TEXT NOT NULL, endpoint TEXT NOT NULL, agreement TEXT, text_sha256 TEXT NOT NULL, image_sha256 TEXT,
  usd REAL NOT NULL, outcome TEXT, seconds REAL, body TEXT,
  text TEXT, tokens_in INTEGER, tokens_out INTEGER, faults TEXT, accepted INTEGER
);
CREATE INDEX IF NOT EXISTS of_study ON request (study_id);
CREATE UNIQUE INDEX IF NOT EXISTS one_accepted ON request (study_id) WHERE accepted = 1;
"""
_SUCCESSOR = {"GeminiTeacher": "OpenAITeacher"}  # who goes on with the database of a teacher that is no more
ANSWERED, GARBLED = "answered", "garbled"  # outcomes with a body: one that could be read, one that could not


class StoreError(RuntimeError):
    """The database cannot be used or written; the message names it and the way out."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of one study: the number of judged answers, whether one was accepted, the faults of the last."""

    judged: int = 0
    accepted: bool = False
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answer of request ``number`` says, what is wrong with it (nothing: accepted), and what it cost."""

    number: int
    reply: Reply
    faults: Sequence[Fault]
    usd: float


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A response's body as it came; ``usd`` is what it cost once ``settled``, the most it may have cost before."""

    number: int
    study_id: str
    body: str
    usd: float
    settled: bool


class TraceStore:
    """One open database; every method is one transaction, on disk when it returns. Raises StoreError.

    A request's life: ``sent`` (its row, with the most it may cost), ``ended`` (what came of it) and, where that is an
    answer, ``judged``. A row that stays without an outcome was in flight when the process died. Methods may be called
    from any thread, one at a time.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self.path = connection, path

    def begin(self, identity: Mapping[str, str], studies: Sequence[Study], label_set: LabelSet) -> None:
        """Adds the studies to ask about; a study that is known already must be unchanged.

        Raises StoreError where the database was begun with another ``identity`` or a study has changed: answers to two
        different questions do not belong in one file.
        """
        before = {key: _SUCCESSOR.get(value, value) for key, value in self.rows("SELECT key, value FROM identity")}
        if changed := [key for key in identity if before.get(key, identity[key]) != identity[key]]:
            shown = "; ".join(f"{key}: {before[key][:60]!r} -> {identity[key][:60]!r}" for key in changed)
            raise StoreError(
                f"{self.path} holds answers to other questions ({shown}): choose another name= or remove it"
            )
        known = {row[0]: row[1:] for row in self.rows("SELECT study_id, image_sha256, labels FROM study")}
        rows = [
            (s.study_id, s.patient_id, s.dataset, str(s.image), s.image_sha256, json.dumps(label_set.decode(s.target)))
            for s in studies
        ]
        if altered := [row[0] for row in rows if row[0] in known and known[row[0]] != row[4:]]:
            raise StoreError(
                f"{len(altered)} studies of {self.path} have other labels or images than when they were asked about, "
                f"e.g. {', '.join(altered[:3])}: choose another name= or remove it"
            )
        with self._transaction() as cursor:
            cursor.executemany("INSERT OR IGNORE INTO identity VALUES (?, ?)", identity.items())
            cursor.executemany(
                "INSERT INTO study (study_id, patient_id, dataset, image_path, image_sha256, labels, position)"
                " VALUES (?, ?, ?, ?, ?, ?, (SELECT COUNT(*) FROM study))"
                " ON CONFLICT (study_id) DO UPDATE SET image_path = excluded.image_path",
                rows,
            )

    def sent(
        self,
        study_id: str,
        attempt: int,
        endpoint: str,
        agreement: str | None,
        hashes: tuple[str, str | None],
        usd: float,
    ) -> int:
        """Notes a request before it leaves, with the hashes of its text and image, and returns its number."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._transaction() as cursor:
            cursor.execute(
                "INSERT INTO request (study_id, attempt, sent_at, endpoint, agreement, text_sha256, image_sha256, usd)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (study_id, attempt, now, endpoint, agreement, *hashes, usd),
            )
            return int(cursor.lastrowid or 0)

    def ended(self, number: int, outcome: str, seconds: float, body: str, usd: float) -> None:
        """Notes what became of a request, with the body as it came and the most that it may have cost."""
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE request SET outcome = ?, seconds = ?, body = ?, usd = ? WHERE id = ?",
                (outcome, seconds, body, usd, number),
            )

    def judged(self, verdicts: Sequence[Verdict], anew: Iterable[str] = ()) -> None:
        """Notes what answers say, what is wrong with them and what they cost.

        Earlier verdicts about the studies ``anew`` are forgotten first. A second accepted answer to one is refused.
        """
        values = []
        for v in verdicts:
            faults = json.dumps([[fault.rule, fault.detail] for fault in v.faults])
            reply = (v.reply.text, v.reply.tokens_in, v.reply.tokens_out)
            values.append((*reply, v.usd, faults, int(not v.faults), v.number))
        with self._transaction() as cursor:
            cursor.executemany(
                "UPDATE request SET accepted = NULL, faults = NULL WHERE study_id = ?", [(name,) for name in anew]
            )
            cursor.executemany(
                f"UPDATE request SET outcome = '{ANSWERED}', text = ?, tokens_in = ?, tokens_out = ?, usd = ?,"
                " faults = ?, accepted = ? WHERE id = ?",
                values,
            )

    def answers(self) -> list[StoredAnswer]:
        """Every body that is or may be an answer, the oldest first."""
        query = "SELECT id, study_id, body, usd, text IS NOT NULL FROM request WHERE outcome IN (?, ?) ORDER BY id"
        return [StoredAnswer(*row[:4], bool(row[4])) for row in self.rows(query, ANSWERED, GARBLED)]

    def progress(self) -> dict[str, Progress]:
        """The state of every study."""
        standing = {study_id: Progress() for (study_id,) in self.rows("SELECT study_id FROM study")}
        query = "SELECT study_id, faults, accepted FROM request WHERE accepted IS NOT NULL ORDER BY id"
        for study_id, faults, accepted in self.rows(query):
            before = standing[study_id]
            found = tuple(Fault(*fault) for fault in json.loads(faults))
            standing[study_id] = Progress(before.judged + 1, before.accepted or bool(accepted), found)
        return standing

    def spent(self) -> float:
        """USD so far; a request whose end is not known counts with the most it may have cost."""
        return float(self.rows("SELECT COALESCE(SUM(usd), 0) FROM request")[0][0])

    def typical(self) -> tuple[float, float, float] | None:
        """Mean tokens in, tokens out and seconds of the answers; None where fewer than 20 count their tokens."""
        query = (
            "SELECT COUNT(*), AVG(tokens_in), AVG(tokens_out), AVG(seconds) FROM request WHERE tokens_out IS NOT NULL"
        )
        n, *means = self.rows(query)[0]
        return (means[0], means[1], means[2]) if n >= 20 else None

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that ``query`` selects."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _explained(error, self.path) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            cursor.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise _explained(error, self.path) from error


@contextmanager
def open_store(path: Path, patience: float = 30.0) -> Iterator[TraceStore]:
    """The database at ``path``, for this process alone; another program that writes to it is waited for ``patience`` s.

    The lock goes with the process, so a killed run never blocks the next one. Raises StoreError where another run
    holds it, or the file is no such database.
    """
    path.parent.mkdir(0o700, parents=True, exist_ok=True)  # what is exported beside it holds the same texts
    refusal = StoreError(f"{path} is in use by another run: wait for it, or choose another name=")
    with locked(path.with_suffix(".lock"), refusal):
        remove_leftovers(path.parent)
        path.touch()  # with the mode of the umask, which SQLite does not ask
        connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # an answer is paid for: it outlives a power cut
            connection.executescript(_TABLES)
            found = connection.execute("INSERT OR IGNORE INTO identity VALUES ('schema', ?)", (str(SCHEMA),)).rowcount
            if not found and connection.execute("SELECT value FROM identity WHERE key = 'schema'").fetchone() != ("1",):
                raise StoreError(f"{path} was written by another version of chexreason: choose another name=")
            yield TraceStore(connection, path)
        except sqlite3.Error as error:
            raise _explained(error, path) from error
        finally:
            connection.close()


def _explained(error: sqlite3.Error, path: Path) -> StoreError:
    said = str(error)
    ways = {
        "full": "free space and run the same command again; answers that were in flight are asked for again",
        "locked": "another program holds it: close that and run the same command again",
        "disk I/O": "the disk cannot be written: mend it and run the same command again",
        "UNIQUE": "a study would have two accepted traces; this is a fault of chexreason, please report it",
    }
    way = next((way for word, way in ways.items() if word in said), "choose another name= or remove the file")
    return StoreError(f"{path}: {said}; {way}")
