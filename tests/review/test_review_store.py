"""The review's database: nothing confirmed is lost, whoever writes beside it and however it dies."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from chexreason.review import journal as module
from chexreason.review.decision import WITHDRAWN, Decision
from chexreason.review.journal import ReviewStore
from chexreason.traces.trace import Trace

TRACES = [Trace(f"s{i}", f"p{i}", "d", "", ("Edema",), "free", f"text {i}") for i in range(30)]


def decision(i: int, verdict: str = "accept", reviewer: str = "anna") -> Decision:
    return Decision(reviewer, *TRACES[i].key, TRACES[i].text_sha256, verdict)


@pytest.fixture
def store(tmp_path) -> ReviewStore:
    return ReviewStore(tmp_path / "deep" / "review.sqlite")


def test_the_latest_decision_of_each_reader_counts(store):
    first = replace(decision(0, "edit"), text="O'Hara; DROP TABLE decision; \u00e9\n\u2603", comment="c", reason="r")
    for one in (first, decision(1), decision(0, reviewer="ben"), decision(1, "reject"), decision(2)):
        store.add(one)
    store.add(decision(2, WITHDRAWN))
    again = ReviewStore(store.path)
    assert again.decisions() == [first, decision(0, reviewer="ben"), decision(1, "reject")]
    assert again.decisions("ben") == [decision(0, reviewer="ben")]
    assert store.path.stat().st_mode & 0o077 == 0


def test_the_sample_stays_the_same_while_the_file_grows(store):
    sample = store.sample(TRACES[:20], 10, 0)
    more = [*TRACES[::-1], replace(TRACES[0], study_id="new")]
    assert ReviewStore(store.path).sample(more, 10, 0) == sample


def test_another_review_in_the_same_place_is_refused(store):
    sample = store.sample(TRACES, 10, 0)
    with pytest.raises(ValueError, match="begun with n=10 seed=0, not n=10 seed=1"):
        store.sample(TRACES, 10, 1)
    gone, changed = sample[0], sample[1]
    others = [replace(t, text="new words") if t == changed else t for t in TRACES if t != gone]
    with pytest.raises(
        ValueError, match=rf"1 are missing \({gone.study_id} / free\) and 1 .*\({changed.study_id} / free"
    ):
        store.sample(others, 10, 0)


def test_links_last_until_they_are_renewed(store):
    links = store.links(["anna", "ben"])
    assert len(set(links.values())) == 2
    assert min(map(len, links.values())) >= 32
    assert ReviewStore(store.path).links(["ben", "carl"])["ben"] == links["ben"]
    renewed = store.links(["ben"], renew=True)
    assert renewed["ben"] != links["ben"]
    assert store.links(["anna"])["anna"] != links["anna"]


def test_many_readers_at_once_lose_nothing(store):
    with ThreadPoolExecutor(6) as pool:
        for name in ("r0", "r1", "r2", "r3", "r4", "r5"):
            pool.submit(lambda name=name: [store.add(decision(i, reviewer=name)) for i in range(4)])
    assert len(store.decisions()) == 24


def test_a_locked_or_full_or_foreign_file_is_an_error_that_names_it(store, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    blocker = sqlite3.connect(store.path)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match=r"review\.sqlite: database is locked"):
        store.add(decision(0))
    blocker.close()
    store.add(decision(0))
    (tmp_path / "text.sqlite").write_text("no database at all, but long enough to look like one" * 9)
    with pytest.raises(OSError, match="not a database"):
        ReviewStore(tmp_path / "text.sqlite")


KILLED = """
import sys
from pathlib import Path
from chexreason.review.decision import Decision
from chexreason.review.journal import ReviewStore
store = ReviewStore(Path(sys.argv[1]))
for i in range(10_000):
    store.add(Decision("anna", f"s{i}", "free", "", "accept"))
    print(i, flush=True)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_confirmed(tmp_path):
    path = tmp_path / "review.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    confirmed = [int(process.stdout.readline()) for _ in range(41)]
    process.kill()
    confirmed += map(int, process.stdout.read().split())
    process.wait()
    kept = [d.study_id for d in ReviewStore(path).decisions()]
    assert kept[: len(confirmed)] == [f"s{i}" for i in confirmed]
    assert len(kept) <= len(confirmed) + 1  # at most one was written and not confirmed
