"""Asking a real HTTP server that misbehaves: every kind of failure ends as documented, and no answer is lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from chexreason.labels.catalog import CHEXPERT14
from chexreason.traces.acceptance import acceptance
from chexreason.traces.export import JSONL_NAME, PARQUET_NAME, export
from chexreason.traces.store import StoreError, TraceStore, open_store
from chexreason.traces.task import Limits
from tests.support import scripted_server as s
from tests.support.asking import QUICK, faults, first, outcomes, run, study

pytestmark = pytest.mark.slow  # for the time that the client takes to import


TRANSPORT = {
    "429 with Retry-After": (lambda a: s.error(429, headers={"Retry-After": "0.3"}), "HTTP 429"),
    "500": (lambda a: s.error(500), "HTTP 500"),
    "timeout": (lambda a: s.Act(s.good(1, a).body, delay=1.0), "timeout"),
    "half a JSON": (lambda a: s.Act(s.good(1, a).body[:99]), "garbled"),
    "no completion": (lambda a: s.Act(b"[]"), "garbled"),
    "nested JSON": (lambda a: s.Act(b"[" * 100_000), "garbled"),
    "a nested error": (lambda a: s.Act(b"[" * 100_000, 500), "HTTP 500"),
    "not Unicode": (lambda a: s.Act(b"\xff\xfe" + s.good(1, a).body), "garbled"),
    "a page": (lambda a: s.Act(b"<html>busy</html>", headers={"Content-Type": "text/html"}), "garbled"),
    "nothing": (lambda a: s.Act(b""), "garbled"),
    "a cut connection": (lambda a: s.Act(s.good(1, a).body, cut=True), "no connection"),
}


@pytest.mark.parametrize("kind", TRANSPORT)
def test_a_failure_on_the_way_is_tried_again_and_costs_no_attempt(kind, tmp_path, image) -> None:
    act, outcome = TRANSPORT[kind]
    limits = Limits(**vars(QUICK) | {"seconds": 0.5 if kind == "timeout" else 5.0})
    with s.ScriptedServer(first(act)) as server, open_store(tmp_path / "t.db") as store:
        assert run(store, server, [study(0, image)], limits) == ""
        assert outcomes(store) == {outcome: 1, "answered": 1}
        assert store.rows("SELECT attempt FROM request") == [(0,), (0,)]
        assert store.progress()["x/0"].accepted
        if kind.startswith("429"):
            assert server.times[1] - server.times[0] >= 0.3


def changed(asked, old: str, new: str):
    return s.Act(s.completion(s.right_answer(asked).replace(old, new)))


REJECTED = {
    "refused": lambda a: s.Act(s.completion(None, refusal="I cannot help with that.")),
    "refused by a filter": lambda a: s.Act(s.completion("", "content_filter")),
    "refused with 400": lambda a: s.error(400, "The response was filtered", "content_filter"),
    "empty": lambda a: s.Act(s.completion("")),
    "language": lambda a: s.Act(s.completion(s.reasoned(a, "Das Herz ist nicht vergrößert und " * 15))),
    "too long": lambda a: s.Act(s.completion(s.reasoned(a, "The heart is large and " * 5000))),
    "cut off": lambda a: s.Act(s.completion("<think>The heart", "length")),
    "betrays the answer": lambda a: changed(a, "<think>", "<think>As provided, "),
    "labels": lambda a: changed(a, "<solution>", "<solution>No Finding, "),
    "form": lambda a: s.Act(s.completion("The heart is large. \ud800")),
}


@pytest.mark.parametrize("rule", REJECTED)
def test_an_unfit_answer_is_kept_and_asked_for_again_with_the_reason(rule, tmp_path, image) -> None:
    with s.ScriptedServer(first(REJECTED[rule])) as server, open_store(tmp_path / "t.db") as store:
        assert run(store, server, [study(0, image)]) == ""
        assert faults(store)[0] == rule.split(" by")[0].split(" with")[0]
        assert store.progress()["x/0"].judged == 2
        assert store.progress()["x/0"].accepted
        assert "An earlier answer could not be used" not in s.text_of(server.asked[0])
        assert "An earlier answer could not be used:\n- " in s.text_of(server.asked[1])
        assert all(answer.body for answer in store.answers())


def test_a_study_that_fails_every_time_is_set_aside_and_not_asked_about_again(tmp_path, image) -> None:
    with s.ScriptedServer(lambda n, a: REJECTED["empty"](a)) as server, open_store(tmp_path / "t.db") as store:
        run(store, server, [study(0, image)])
        run(store, server, [study(0, image)])
        report = acceptance(store, CHEXPERT14, QUICK.attempts)
        assert (len(server.asked), report["set_aside"], report["open"]) == (QUICK.attempts, 1, 0)
        assert report["rules"]["empty"] == {"answers": 3, "share": 1.0}
        assert export(store, tmp_path) == 0
        assert len((tmp_path / "set_aside.jsonl").read_text().splitlines()) == 3


def test_too_large_an_image_is_sent_again_at_half_its_size(tmp_path, image) -> None:
    def behave(n, asked):
        url = asked["messages"][0]["content"][1]["image_url"]["url"]
        sizes.append(len(url))
        return s.error(400, "image exceeds the maximum size") if n == 0 else s.good(n, asked)

    sizes: list[int] = []
    big = tmp_path / "big.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1100, 1100), dtype=np.uint8)).save(big)
    with s.ScriptedServer(behave) as server, open_store(tmp_path / "t.db") as store:
        assert run(store, server, [study(0, big)]) == ""
        assert outcomes(store) == {"HTTP 400": 1, "answered": 1}
        assert sizes[1] < 0.4 * sizes[0]


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        *((status, {"Location": "http://127.0.0.1:9/"}, f"HTTP {status}: ") for status in (401, 402, 403, 404, 307)),
        (429, {"Retry-After": "86400"}, "asks to wait 86,400 s"),
    ],
)
def test_what_would_befall_every_request_stops_the_run_at_once(status, headers, said, tmp_path, image) -> None:
    act = s.error(status, "bad key", headers=headers)
    with s.ScriptedServer(lambda n, a: act) as server, open_store(tmp_path / "t.db") as store:
        stopped = run(store, server, [study(i, image) for i in range(40)])
        assert said in stopped
        assert "bad key" in stopped
        assert len(server.asked) <= QUICK.concurrency
        assert store.spent() == 0.0


def test_a_dead_endpoint_ends_the_run_and_the_next_run_starts_where_it_was(tmp_path, image) -> None:
    studies = [study(i, image) for i in range(40)]
    with open_store(tmp_path / "t.db") as store:
        with s.ScriptedServer(lambda n, a: s.error(503)) as server:
            assert "studies in a row got no answer" in run(store, server, studies)
            assert len(server.asked) < 40
        with s.ScriptedServer() as server:
            assert run(store, server, studies) == ""
        assert all(stand.accepted for stand in store.progress().values())


def test_the_budget_is_never_passed_and_raising_it_continues(tmp_path, image) -> None:
    studies = [study(i, image) for i in range(30)]
    with s.ScriptedServer() as server, open_store(tmp_path / "t.db") as store:
        assert run(store, server, studies, budget=0.0) == "the budget is spent"
        assert server.asked == []
        assert run(store, server, studies, budget=0.05) == "the budget is spent"
        assert 0.03 < store.spent() <= 0.05
        assert run(store, server, studies, budget=1.0) == ""
        assert len(server.asked) == 30  # each at 1000 tokens in and 200 out
        assert store.spent() == pytest.approx(30 * (1000 * 1.0 + 200 * 10.0) / 1e6)


def test_concurrency_and_rate_are_kept(tmp_path, image) -> None:
    def slow(n, a):
        return s.Act(s.good(n, a).body, delay=0.05)

    limits = Limits(**vars(QUICK) | {"concurrency": 3, "per_minute": 1200})
    with s.ScriptedServer(slow) as server, open_store(tmp_path / "t.db") as store:
        run(store, server, [study(i, image) for i in range(12)], limits)
        assert server.most_busy <= 3
        gaps = np.diff(server.times)
        assert gaps.mean() >= 0.045


def test_a_pause_that_the_endpoint_asks_for_holds_all_requests(tmp_path, image) -> None:
    busy = s.error(429, headers={"Retry-After": "0.6"})
    limits = Limits(**vars(QUICK) | {"concurrency": 2})

    def behave(n, a):
        if n == 0:
            return busy
        return s.Act(s.good(n, a).body, delay=0.3 if n == 1 else 0.0)  # the other worker is not back before it

    with s.ScriptedServer(behave) as server, open_store(tmp_path / "t.db") as store:
        assert run(store, server, [study(i, image) for i in range(8)], limits) == ""
        waited = [start - server.times[0] for start in server.times]
        assert sum(seconds < 0.6 for seconds in waited) <= 2  # the first, and the one that was out already


def test_a_database_that_another_program_holds_is_waited_for_and_nothing_is_sent_before(tmp_path, image) -> None:
    path, studies = tmp_path / "t.db", [study(0, image)]
    with s.ScriptedServer() as server, open_store(path, patience=0.2) as store:
        run(store, server, [])
        hold = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute('BEGIN IMMEDIATE'); "
        command = [sys.executable, "-c", hold + "print('held', flush=True); input()", str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(StoreError, match="locked; another program holds it"):
                run(store, server, studies)
            assert server.asked == []
            other.communicate("\n")
        assert run(store, server, studies) == ""
        with pytest.raises(StoreError, match="in use by another run"), open_store(path):
            pass


def test_a_full_disk_stops_the_run_before_more_is_paid_for_and_the_next_run_completes_it(tmp_path, image) -> None:
    studies = [study(i, image) for i in range(60)]
    with s.ScriptedServer() as server, open_store(tmp_path / "t.db") as store:
        run(store, server, studies[:5])
        pages = store.rows("PRAGMA page_count")[0][0]
        store.rows(f"PRAGMA max_page_count = {pages + 6}")
        with pytest.raises(StoreError, match="full; free space and run the same command again"):
            run(store, server, studies)
        assert len(server.asked) < 40
        store.rows("PRAGMA max_page_count = 100000")
        assert run(store, server, studies) == ""
        once = store.rows("SELECT study_id, COUNT(*) FROM request WHERE accepted = 1 GROUP BY 1")
        assert sorted(once) == sorted((one.study_id, 1) for one in studies)


def test_a_fatal_fault_of_one_worker_waits_for_the_answers_of_the_others(tmp_path, image, monkeypatch) -> None:
    """Two workers: the first answer comes home while the second is being written, and its worker meets the fault."""
    studies = [study(i, image) for i in range(4)]
    sent = TraceStore.sent

    def broken(store, study_id, *rest):
        if study_id == "x/2":
            raise StoreError("the disk is gone")
        return sent(store, study_id, *rest)

    monkeypatch.setattr(TraceStore, "sent", broken)
    both_asked = threading.Barrier(2, timeout=5.0)

    def behave(n, a):
        both_asked.wait()
        return s.Act(s.good(n, a).body, delay=n * 1.0)

    limits = Limits(**vars(QUICK) | {"concurrency": 2, "seconds": 30.0})
    with s.ScriptedServer(behave) as server, open_store(tmp_path / "t.db") as store:
        with pytest.raises(StoreError, match="the disk is gone"):
            run(store, server, studies, limits)
        assert outcomes(store) == {"answered": len(server.asked)} == {"answered": 2}


def misbehaving(seed: int):
    """Most requests fail, each in a way drawn for it."""
    acts = [act for act, _ in TRANSPORT.values()] + list(REJECTED.values())

    def behave(n, asked):
        draw = random.Random(f"{seed}/{n}")
        return s.good(n, asked) if draw.random() < 0.7 else draw.choice(acts)(asked)

    return behave


def test_500_studies_against_a_misbehaving_server_end_with_each_present_exactly_once(tmp_path, image) -> None:
    studies = [study(i, image) for i in range(500)]
    limits = Limits(concurrency=12, seconds=0.9, attempts=12, retries=12, pause=0.001, longest_pause=0.02, give_up=20)
    with s.ScriptedServer(misbehaving(0)) as server, open_store(tmp_path / "t.db") as store:
        assert run(store, server, studies, limits) == ""
        assert set(outcomes(store)) == {outcome for _, outcome in TRANSPORT.values()} | {"answered"}
        assert export(store, tmp_path / "one") == 500
        rows = [json.loads(line) for line in (tmp_path / "one" / JSONL_NAME).read_text().splitlines()]
        assert [row["study_id"] for row in rows] == [one.study_id for one in studies]
        assert [tuple(row["labels"]) for row in rows] == [CHEXPERT14.decode(one.target) for one in studies]
        export(store, tmp_path / "two")
        for name in (JSONL_NAME, PARQUET_NAME):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
