"""Kill -9 and Ctrl-C in the middle of a run: at most what was in flight is asked again, and nothing is there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexreason.labels.catalog import CHEXPERT14
from chexreason.traces.export import JSONL_NAME, export
from chexreason.traces.store import TraceStore, open_store
from tests.support import scripted_server as s

pytestmark = pytest.mark.slow
N, CONCURRENCY = 60, 4
DRIVER = """
    import os, random, signal, sys
    from pathlib import Path
    import yaml
    from chexreason.labels.catalog import CHEXPERT14
    from chexreason.prompts import load_prompt
    from chexreason.traces.ask import Tariff
    from chexreason.traces.budget import Budget
    from chexreason.traces.collect import Limits, collect
    from chexreason.traces.instruction import Instruction
    from chexreason.traces.openai_teacher import OpenAITeacher
    from chexreason.traces.store import TraceStore, open_store
    from chexreason.traces.task import Task, judge_again
    from chexreason.types import Study

    conf, folder, url, point, n = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
    studies = [
        Study(f"x/{i}", f"x:{i}", "x", folder / "film.png", CHEXPERT14.encode(["Edema", "Fracture"][: 1 + i % 2]),
              (True,) * 14)
        for i in range(n)
    ]
    left = 20

    def die_in(name):
        method = getattr(TraceStore, name)
        def patched(self, *values):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(self, *values)
        setattr(TraceStore, name, patched)

    if point == "answered":
        die_in(point)
    tariff = Tariff(1.0, 1.0)
    teacher = OpenAITeacher("m", url + "/v1", tariff)
    words = Instruction(**yaml.safe_load((conf / "teacher_instruction" / "free_reasoning.yaml").read_text()))
    task = Task(teacher, words, load_prompt("free_reasoning", conf / "prompt"), CHEXPERT14)
    with open_store(folder / "t.db") as store:
        store.begin(task.identity, studies, CHEXPERT14)
        judge_again(task, store, studies)
        if point == "judged":
            die_in(point)
        budget = Budget(10.0, store.spent(), tariff, teacher.endpoint)
        print("asking", flush=True)
        sys.exit(collect(task, store, studies, Limits(concurrency=4), budget, lambda *_: None) or 0)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    return tmp_path


def start(folder: Path, url: str, point: str = "") -> subprocess.Popen:
    conf = Path(__file__).parents[2] / "conf"
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(conf), str(folder), url, point, str(N)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def check_whole(store: TraceStore, n_asked: int, folder: Path) -> None:
    """All there, each once; no answer that came home was asked for again."""
    assert export(store, folder) == N
    assert len(set((folder / JSONL_NAME).read_text().splitlines())) == N
    counted = store.rows("SELECT COUNT(*), SUM(outcome IS NULL), SUM(outcome = 'answered') FROM request")[0]
    assert counted[2] == N
    assert counted[0] >= n_asked >= N
    assert counted[1] <= CONCURRENCY


@pytest.mark.parametrize("point", ["answered", "judged"])
def test_kill_9_loses_at_most_what_is_in_flight(point, folder) -> None:
    with s.ScriptedServer() as server:
        assert ended(start(folder, server.url, point))[0] == -signal.SIGKILL
        asked = len(server.asked)
        assert 15 <= asked < N
        assert ended(start(folder, server.url))[0] == 0
        assert len(server.asked) <= N + CONCURRENCY
        with open_store(folder / "t.db") as store:
            check_whole(store, len(server.asked), folder)


def test_a_second_ctrl_c_drops_what_is_in_flight_and_the_next_run_asks_again(folder) -> None:
    def stuck(n, asked):
        return s.Act(s.good(n, asked).body, delay=0.0 if n < 10 else 30.0)

    with s.ScriptedServer(stuck) as server:
        process = start(folder, server.url)
        while len(server.asked) < 10 + CONCURRENCY:
            time.sleep(0.02)
            assert process.poll() is None, process.communicate()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        code, _ = ended(process)
        assert code != 0
        assert time.monotonic() - began < 15
        server.behave = s.good
        assert ended(start(folder, server.url))[0] == 0
        assert len(server.asked) == N + CONCURRENCY
        with open_store(folder / "t.db") as store:
            check_whole(store, len(server.asked), folder)


def test_ctrl_c_lets_the_answers_in_flight_come_home(folder) -> None:
    def slow(n, asked):
        return s.Act(s.good(n, asked).body, delay=0.3)

    with s.ScriptedServer(slow) as server:
        process = start(folder, server.url)
        while len(server.asked) < 10:
            time.sleep(0.02)
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        code, said = ended(process)
        assert "KeyboardInterrupt" in said
        assert code != 0
        n_asked = len(server.asked)
        assert n_asked < 30
        with open_store(folder / "t.db") as store:
            assert store.rows("SELECT COUNT(*) FROM request WHERE accepted = 1") == [(n_asked,)]
        server.behave = s.good
        assert ended(start(folder, server.url))[0] == 0
        assert len(server.asked) == N
        with open_store(folder / "t.db") as store:
            check_whole(store, N, folder)
            assert CHEXPERT14.labels[0] not in (folder / JSONL_NAME).read_text().splitlines()[0]
