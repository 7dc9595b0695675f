"""From the database to files and back into supervised fine-tuning."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.prompts import load_prompt
from chexreason.traces.acceptance import acceptance, as_markdown
from chexreason.traces.answer_faults import check_answers
from chexreason.traces.export import JSONL_NAME, PARQUET_NAME, TraceTeacher, export
from chexreason.traces.instruction import Instruction, compose
from chexreason.traces.pace import Pace
from chexreason.traces.store import StoreError, open_store
from chexreason.traces.task import Task
from chexreason.traces.template import OfflineTeacher
from chexreason.traces.verify import Fault
from chexreason.types import Sample, Study
from tests.support.asking import CONF, instruction, run_task

ARMS = ("free_reasoning", "reasoning_a", "reasoning_narrative")
STUDIES = [
    Study(f"x/{i}", f"x:{i}", "x", Path(f"{i}.png"), CHEXPERT14.encode(labels), (True,) * 14)
    for i, labels in enumerate((["Edema"], ["Fracture", "Support Devices"], ["No Finding"], ["Pneumonia"]))
]


def task(arm: str = "free_reasoning") -> Task:
    return Task(OfflineTeacher(), instruction(arm), load_prompt(arm, CONF / "prompt"), CHEXPERT14)


def made(folder: Path, arm: str = "free_reasoning") -> Path:
    with open_store(folder / "t.db") as store:
        assert run_task(task(arm), store, STUDIES) == ""
        assert export(store, folder) == len(STUDIES)
        report = acceptance(store, CHEXPERT14, 3, unaskable=2)
    counts = {"studies": 1, "accepted": 1, "accepted_at_once": 1, "set_aside": 0, "share": 1.0}
    assert report["labels"]["Fracture"] == counts
    assert "4 of 4 studies have an accepted trace" in as_markdown(report)
    return folder / JSONL_NAME


@pytest.mark.parametrize("arm", ARMS)
def test_traces_become_the_answers_of_their_arm_and_of_labels_alone(arm: str, tmp_path: Path) -> None:
    path = made(tmp_path, arm)
    for file in (path, tmp_path / PARQUET_NAME):
        teacher = TraceTeacher(file)
        for name in (arm, "only_label"):
            prompt = load_prompt(name, CONF / "prompt")
            samples = [Sample(s, "", teacher.write(s, prompt, CHEXPERT14)) for s in STUDIES]
            check_answers(samples, prompt.answer_format(CHEXPERT14))
    other = load_prompt(next(name for name in ARMS if name != arm), CONF / "prompt")
    with pytest.raises(ValueError, match=f"holds traces for prompt '{arm}', not '{other.name}'"):
        TraceTeacher(path).write(STUDIES[0], other, CHEXPERT14)


def test_the_rows_are_those_of_the_studies_in_their_order(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in made(tmp_path).read_text().splitlines()]
    assert list(rows[1]) == ["study_id", "patient_id", "dataset", "image_path", "labels", "prompt", "text"]
    assert [row["study_id"] for row in rows] == [one.study_id for one in STUDIES]
    assert rows[1]["labels"] == ["Fracture", "Support Devices"]
    assert pq.read_table(tmp_path / PARQUET_NAME).to_pylist() == rows


def test_studies_without_a_trace_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path)
    path = tmp_path / "some.jsonl"
    path.write_text("".join((tmp_path / JSONL_NAME).read_text().splitlines(keepends=True)[:3]))
    teacher = TraceTeacher(path)
    can = [study for study in STUDIES if teacher.can_write(study, CHEXPERT14)]
    assert can == STUDIES[:3]
    with caplog.at_level(logging.WARNING):
        for study in can:
            teacher.write(study, load_prompt("free_reasoning", CONF / "prompt"), CHEXPERT14)
    assert [record.getMessage() for record in caplog.records] == [f"{path} has no trace of 1 of 4 studies: left out"]


def test_another_question_or_another_study_is_refused_by_the_database(tmp_path: Path) -> None:
    made(tmp_path)
    changed = Study("x/0", "x:0", "x", Path("0.png"), CHEXPERT14.encode(["Fracture"]), (True,) * 14)
    with open_store(tmp_path / "t.db") as store:
        assert (store.rows("PRAGMA journal_mode"), store.rows("PRAGMA synchronous")) == ([("wal",)], [(2,)])
        with pytest.raises(StoreError, match=r"answers to other questions \(prompt: 'free_reasoning' -> 'reasoning_a'"):
            store.begin(task("reasoning_a").identity, STUDIES, CHEXPERT14)
        with pytest.raises(StoreError, match=r"1 studies of .* have other labels or images .* x/0"):
            store.begin(task().identity, [changed], CHEXPERT14)
    (tmp_path / "no.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="not a database; choose another name="), open_store(tmp_path / "no.db"):
        pass


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"chexreason\.cli\.traces"):
        TraceTeacher(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not a Parquet file of traces"):
        TraceTeacher(tmp_path / "bad.parquet")


@pytest.mark.parametrize("arm", ARMS)
def test_the_instruction_tells_the_findings_the_prompt_and_the_reasons(arm: str) -> None:
    asked = task(arm)
    text = compose(asked.instruction, STUDIES[1], asked.prompt, CHEXPERT14)
    assert text.count("Fracture, Support Devices") >= 2
    assert "<solution>" in text
    again = compose(asked.instruction, STUDIES[1], asked.prompt, CHEXPERT14, [Fault("too long", "999 words")])
    assert again.startswith(text)
    assert "- the reasoning is too long: 999 words" in again
    assert "Nobody judged" not in text
    partly = replace(STUDIES[1], mask=tuple(label not in ("Edema", "Pneumonia") for label in CHEXPERT14))
    told = "Nobody judged these on this radiograph: Edema, Pneumonia. Say neither"
    assert told in compose(asked.instruction, partly, asked.prompt, CHEXPERT14)
    with pytest.raises(ValueError, match="text must hold"):
        Instruction(arm, "no placeholder", "{labels}", "{reasons}", 1, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2000), st.floats(0.001, 10), st.integers(0, 9))
def test_back_off_grows_within_its_limit_and_jitters(failures: int, base: float, seed: int) -> None:
    async def waits() -> list[float]:
        pace = Pace(None, base, 60.0, seed)
        return [pace.backoff(failures) for _ in range(20)]

    found = asyncio.run(waits())
    assert 0.0 <= min(found) < max(found) <= min(60.0, base * 2.0 ** min(failures, 32))


def test_a_halt_wakes_a_request_that_waits_for_its_turn() -> None:
    async def went() -> bool:
        pace = Pace(None, 1.0, 1.0, 0)
        pace.hold(60.0)
        asyncio.get_running_loop().call_later(0.01, pace.halt)
        return await asyncio.wait_for(pace.turn(), 5.0)

    assert asyncio.run(went()) is False
