"""The command: from a prepared set to the samples of supervised fine-tuning."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from chexreason.build.data import build_labels, build_manifests, build_prompt, build_samples, load_studies, make
from chexreason.cli.traces import traces
from chexreason.traces.answer_faults import check_answers
from tests.support import scripted_server as server
from tests.support.configs import composed

pytestmark = pytest.mark.slow
SMALL = [
    "data.sets.phantom_a.source.n={sft: 12, rl: 2, val: 3, test: 2}",
    "data.sets.phantom_b.source.n={val: 2, test: 2}",
    "data.size=64",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    build_manifests(composed("prepare", f"paths.out={folder}", *SMALL), on_error="stop", workers=1)
    return folder


@pytest.mark.parametrize("arm", ["free_reasoning", "reasoning_narrative", "reasoning_a"])
def test_traces_are_made_once_and_train_the_arm(arm, out) -> None:
    cfg = composed("traces", f"paths.out={out}", f"prompt={arm}", *SMALL)
    report = traces(cfg)
    assert (report["accepted"] + report["unaskable"], report["stopped"]) == (12, "")  # studies of sft
    written = (Path(cfg.folder) / "traces.jsonl").read_bytes()
    assert traces(cfg)["requests"] == report["requests"]  # nothing is asked twice
    assert (Path(cfg.folder) / "traces.jsonl").read_bytes() == written
    assert json.loads((Path(cfg.folder) / "acceptance.json").read_text())["accepted"] == report["accepted"]

    teacher = "sft_answers@phase.teacher=traces"
    file = f"phase.teacher.file={cfg.folder}/traces.jsonl"
    train = composed("train", f"paths.out={out}", f"prompt={arm}", teacher, file, *SMALL)
    label_set, prompt = build_labels(train), build_prompt(train)
    studies = load_studies(train, "phantom_a", ("sft", "val"), label_set)
    samples = build_samples(studies, prompt, label_set, make(train.phase.teacher))
    assert len(samples) == report["accepted"]
    check_answers(samples, prompt.answer_format(label_set))


def test_studies_without_an_answer_are_an_error_that_says_why(out) -> None:
    def behave(n, asked):
        return server.error(400, "unknown parameter 'top_k'") if n == 2 else server.good(n, asked)

    with server.ScriptedServer(behave) as served:
        words = [f"paths.out={out}", "name=left", f"data.folder={out}/data/phantom", "limit=10", *SMALL]
        asked = ["teacher=openai", "teacher.model=m", f"teacher.endpoint={served.url}/v1"]
        command = [sys.executable, "-m", "chexreason.cli.traces", *words, *asked]
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "is left for the next run: HTTP 400: " in said
        assert "unknown parameter 'top_k'" in said
        assert "1 studies are open" in said
        folder = next(out.joinpath("left").rglob("traces.jsonl")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, len(served.asked)) == (0, 11)


@pytest.mark.parametrize("teacher", ["openai", "gemini"])
def test_a_teacher_with_a_price_is_asked_nothing_before_a_budget_is_set(teacher, out) -> None:
    priced = ["teacher.tariff.usd_in=1", "teacher.tariff.usd_out=1", "teacher.endpoint=http://127.0.0.1:9"]
    cfg = composed("traces", f"paths.out={out}", f"teacher={teacher}", "teacher.model=m", "name=poor", *priced, *SMALL)
    cfg.folder = f"{out}/poor/{teacher}"
    report = traces(cfg)
    assert (report["stopped"], report["requests"], report["usd"]) == ("the budget is spent", {}, 0.0)
