"""Kill -9 and Ctrl-C in the middle of a run: at most what was in flight is asked again, and nothing is there twice."""

from __future__ import annotations

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
ROOT = Path(__file__).parents[2]
DRIVER = """
    import os, signal, sys
    from pathlib import Path
    from chexreason.traces.store import TraceStore, open_store
    from tests.support.asking import run_task, study, task

    folder, url, point, n = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    left = 20

    def die_in(name):
        method = getattr(TraceStore, name)
        def patched(self, *values, **anew):  # what is judged again at the start is not counted
            global left
            left -= not anew
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(self, *values, **anew)
        setattr(TraceStore, name, patched)

    if point:
        die_in(point)
    with open_store(folder / "t.db") as store:
        sys.exit(run_task(task(url), store, [study(i, folder / "film.png") for i in range(n)]) or 0)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    return tmp_path


def start(folder: Path, url: str, point: str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(folder), url, point, str(N)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


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


@pytest.mark.parametrize("point", ["ended", "judged"])
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
