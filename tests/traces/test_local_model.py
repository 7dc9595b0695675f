"""End to end against a real local model server: `transformers serve` with the shipped Gemma 3, which sees the image."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.traces.acceptance import acceptance
from chexreason.traces.ask import Tariff
from chexreason.traces.store import open_store
from chexreason.traces.task import Limits
from tests.support.asking import run_task, study, task

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "chexreason" / "model" / "weights" / "tiny_gemma3"
MISSING = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"pip install {' '.join(MISSING)}")]


@pytest.fixture
def server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(MODEL), "--port", port]
    with (tmp_path / "server.log").open("w") as log:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=log, stderr=log, env=environment)
        try:
            while True:
                assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                        break
                time.sleep(0.2)
            yield f"http://localhost:{port}"
        finally:
            process.terminate()
            process.wait(30)


def test_a_local_model_is_asked_and_its_answers_are_judged(server, tmp_path, image) -> None:
    studies = [replace(study(i, image, "mimic"), dataset="mimic") for i in range(2)]
    limits = Limits(concurrency=1, attempts=2)
    local = task(server, Tariff(max_tokens=60), model=str(MODEL), temperature=0.7)
    with open_store(tmp_path / "t.db") as store:
        stopped = run_task(local, store, studies, limits, budget=0.0)
        report = acceptance(store, CHEXPERT14, limits.attempts)
        print(report["requests"], store.rows("SELECT body, faults FROM request"))
        assert stopped == ""
        assert set(report["requests"]) == {"answered"}
        assert report["accepted"] + report["set_aside"] == len(studies)
        assert report["tokens_in"] > 0
        assert report["tokens_out"] > 0
