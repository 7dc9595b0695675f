"""Runs that follow one another in a folder: what an answer was stays what it was, whatever it looked like."""

from __future__ import annotations

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.traces.ask import Tariff
from chexreason.traces.export import export
from chexreason.traces.instruction import Instruction
from chexreason.traces.openai_teacher import OpenAITeacher
from chexreason.traces.store import StoreError, open_store
from chexreason.traces.task import Limits, Task, judge_again
from tests.support import scripted_server as s
from tests.support.asking import ARM, PRICED, QUICK, faults, first, outcomes, run, study, task

pytestmark = pytest.mark.slow  # for the time that the client takes to import


def test_an_image_that_cannot_be_read_leaves_its_study_and_no_other(tmp_path, image) -> None:
    studies = [study(0, tmp_path / "gone.png"), *(study(i, image) for i in range(1, 12))]
    with s.ScriptedServer() as server, open_store(tmp_path / "t.db") as store:
        assert run(store, server, studies) == ""
        assert [name for name, stand in store.progress().items() if not stand.accepted] == ["x/0"]
        gone = [study(i, tmp_path / "gone.png") for i in range(20, 60)]  # a disk that is not mounted
        assert "studies in a row got no answer, the last: unreadable image" in run(store, server, gone)
        assert len(server.asked) == 11


ODD = {
    "content in parts": lambda a: s.completion([{"type": "text", "text": s.right_answer(a)}]),
    "a refusal that is no text": lambda a: s.completion(s.right_answer(a), refusal=True),
    "content that is a number": lambda a: s.completion(7),
    "tokens that are text": lambda a: s.good(0, a).body.replace(b"1000", b'"many"'),
    "tokens that are no number": lambda a: s.good(0, a).body.replace(b"1000", b"NaN"),
    "tokens below zero": lambda a: s.good(0, a).body.replace(b"1000", b"-1000"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_body_stops_neither_this_run_nor_the_next(kind, tmp_path, image) -> None:
    with s.ScriptedServer(first(lambda a: s.Act(ODD[kind](a)))) as server, open_store(tmp_path / "t.db") as store:
        for _ in range(2):
            assert run(store, server, [study(0, image)]) == ""
            assert store.progress()["x/0"].accepted
        assert len(server.asked) == (2 if kind in ("a refusal that is no text", "content that is a number") else 1)
        if "tokens" in kind:
            assert store.spent() > 0.01  # the most it may have cost, where it does not say


def test_a_body_that_could_not_be_read_once_is_read_again_by_the_reader_of_the_day(
    tmp_path, image, monkeypatch
) -> None:
    def unable(self, body):
        raise ValueError("not yet")

    limits = Limits(**vars(QUICK) | {"retries": 0})
    with s.ScriptedServer() as server, open_store(tmp_path / "t.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr(OpenAITeacher, "read", unable)
            run(store, server, [study(0, image)], limits)
            assert outcomes(store) == {"garbled": 1}
        assert run(store, server, [study(0, image)], limits) == ""
        assert (len(server.asked), outcomes(store), store.progress()["x/0"].accepted) == (1, {"answered": 1}, True)


def test_another_tariff_and_fewer_studies_change_nothing_that_is_there(tmp_path, image) -> None:
    studies = [study(i, image) for i in range(6)]
    with s.ScriptedServer() as server, open_store(tmp_path / "t.db") as store:
        run(store, server, studies)
        spent = store.spent()
        assert spent > 0
        run(store, server, studies[:2], tariff=Tariff(0.0, 0.0))
        assert store.spent() == spent
        assert export(store, tmp_path) == 6


def test_answers_with_and_without_the_image_do_not_mix(tmp_path, image) -> None:
    with s.ScriptedServer() as server, open_store(tmp_path / "t.db") as store:
        run(store, server, [study(0, image)])
        blind = OpenAITeacher("m", f"{server.url}/v1", PRICED, sees_image=False)
        with pytest.raises(StoreError, match="sees_image: 'True' -> 'False'"):
            store.begin(Task(blind, ARM, s.PROMPT, CHEXPERT14).identity, [study(1, image)], CHEXPERT14)


def test_answers_are_judged_again_by_the_rules_of_the_day(tmp_path, image) -> None:
    strict = Instruction(**vars(ARM) | {"min_words": 500, "max_words": 600})
    with s.ScriptedServer() as server, open_store(tmp_path / "t.db") as store:
        run(store, server, [study(0, image)])
        judge_again(task(server.url, arm=strict), store, [study(0, image)])
        assert (faults(store), store.progress()["x/0"].accepted) == (["too short"], False)
