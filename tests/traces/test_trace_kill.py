"""Kill -9 and Ctrl-C in the middle of a run: at most what was in flight is asked again, and nothing is there twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from chexreason.traces.export import JSONL_NAME, export
from chexreason.traces.store import open_store
from tests.support import scripted_server as s

pytestmark = pytest.mark.slow
N, CONCURRENCY = 60, 4
ROOT = Path(__file__).parents[2]
DRIVER = """
    import os, signal, sys
    from pathlib import Path
    from chexreason.traces.store import TraceStore, open_store
    from tests.support.asking import run_task, study, task

    folder, image = Path(sys.argv[1]), Path(sys.argv[2])
    url, n, *points = sys.argv[3:]
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

    for point in points:
        die_in(point)
    with open_store(folder / "t.db") as store:
        sys.exit(run_task(task(url), store, [study(i, image) for i in range(int(n))]) or 0)
"""


@pytest.fixture
def start(tmp_path, image):
    """``start(server, *points)``: a run of N studies in ``tmp_path`` that kills itself at a point."""

    def started(server: s.ScriptedServer, *points: str) -> subprocess.Popen:
        command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path), str(image), server.url, str(N)]
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *points], stdout=pipe, stderr=pipe, text=True, cwd=ROOT)

    return started


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def interrupt(process: subprocess.Popen, server: s.ScriptedServer, n_asked: int) -> None:
    """Ctrl-C, as soon as so many requests are out."""
    while len(server.asked) < n_asked:
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)


def check_whole(folder: Path, n_asked: int) -> None:
    """All there, each once; no answer that came home was asked for again."""
    with open_store(folder / "t.db") as store:
        assert export(store, folder) == N
        counted = store.rows("SELECT COUNT(*), SUM(outcome IS NULL), SUM(outcome = 'answered') FROM request")[0]
    assert len(set((folder / JSONL_NAME).read_text().splitlines())) == N
    assert counted[2] == N
    assert counted[0] >= n_asked >= N
    assert counted[1] <= CONCURRENCY


@pytest.mark.parametrize("point", ["ended", "judged"])
def test_kill_9_loses_at_most_what_is_in_flight(point, start, tmp_path) -> None:
    with s.ScriptedServer() as server:
        assert ended(start(server, point))[0] == -signal.SIGKILL
        assert 15 <= len(server.asked) < N
        assert ended(start(server))[0] == 0
        assert len(server.asked) <= N + CONCURRENCY
        check_whole(tmp_path, len(server.asked))


def test_a_second_ctrl_c_drops_what_is_in_flight_and_the_next_run_asks_again(start, tmp_path) -> None:
    def stuck(n, asked):
        return s.Act(s.good(n, asked).body, delay=0.0 if n < 10 else 30.0)

    with s.ScriptedServer(stuck) as server:
        process = start(server)
        interrupt(process, server, 10 + CONCURRENCY)
        began = time.monotonic()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] != 0
        assert time.monotonic() - began < 15
        server.behave = s.good
        assert ended(start(server))[0] == 0
        assert len(server.asked) == N + CONCURRENCY
        check_whole(tmp_path, len(server.asked))


def test_ctrl_c_lets_the_answers_in_flight_come_home(start, tmp_path) -> None:
    def slow(n, asked):
        return s.Act(s.good(n, asked).body, delay=0.3)

    with s.ScriptedServer(slow) as server:
        process = start(server)
        interrupt(process, server, 10)
        code, said = ended(process)
        assert "KeyboardInterrupt" in said
        assert code != 0
        n_asked = len(server.asked)
        assert n_asked < 30
        with open_store(tmp_path / "t.db") as store:
            assert store.rows("SELECT COUNT(*) FROM request WHERE accepted = 1") == [(n_asked,)]
        server.behave = s.good
        assert ended(start(server))[0] == 0
        assert len(server.asked) == N
        check_whole(tmp_path, N)
