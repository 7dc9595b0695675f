"""The command: which hosts it serves on, and what it leaves behind."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexreason.cli.review import review
from chexreason.review.decision import REASONS, Decision
from chexreason.review.journal import ReviewStore
from chexreason.traces.trace import Trace, read_traces, write_traces
from tests.support.configs import composed

pytestmark = pytest.mark.slow  # whole commands


@pytest.fixture
def traces(tmp_path) -> Path:
    rows = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((40, 40), 9, np.uint8)).save(path)
        text = f"<think>Wet {i}.</think>\n<solution>Edema</solution>"
        rows.append(Trace(f"s{i}", f"p{i}", "mimic" if i else "other", str(path), ("Edema",), "free_reasoning", text))
    write_traces(tmp_path / "traces.jsonl", rows)
    return tmp_path / "traces.jsonl"


def settings(traces: Path, *overrides: str):
    return composed("review", f"file={traces}", f"paths.out={traces.parent / 'out'}", *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["host=192.0.2.7"], r"studies of mimic, other are not declared public.*ssh -L 8765"),
        (["host=192.0.2.7", "allow_export=yes"], r"not declared public.*\(found 'yes'\)"),
        (["host=0.0.0.0"], "every network at once"),
        (["reviewers=[anna,Anna]"], "a name of his own"),
        (["reviewers=[]"], "a name of his own"),
        (["n=0"], "at least one trace"),
    ],
)
def test_what_must_not_be_is_refused_before_anything_is_served(traces, overrides, message):
    with pytest.raises(ValueError, match=message):
        review(settings(traces, *overrides))


def test_another_host_is_warned_about_and_named_agreements_are_said(traces, caplog):
    # No such address here: the warning comes first, then the refusal of the operating system.
    cfg = settings(traces, "host=192.0.2.7", "allow_export='the DUA of May'")
    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match=r"cannot serve on 192\.0\.2\.7"):
        review(cfg)
    assert "unencrypted" in caplog.text
    assert "the DUA of May" in caplog.text


def test_results_are_written_without_serving_and_the_edit_of_the_reader_named_first_counts(traces):
    cfg = settings(traces, "serve=false", "reviewers=[ben,anna]", "n=3", "n_resamples=20")
    assert review(cfg)["n_traces"] == 3
    folder = traces.parent / "out" / "review"
    found = {path.name for path in folder.iterdir() if not path.name.startswith("review.sqlite")}
    assert found == {"decisions.csv", "decisions.json", "agreement.json", "traces.jsonl"}
    read = read_traces(traces)
    assert read_traces(folder / "traces.jsonl") == read
    for name in ("anna", "ben"):
        edit = Decision(name, *read[0].key, read[0].text_sha256, "edit", REASONS[0], text=f"by {name}")
        ReviewStore(folder / "review.sqlite").add(edit)
    review(cfg)
    assert read_traces(folder / "traces.jsonl")[0].text == "by ben"


def test_the_command_serves_stops_and_goes_on(traces):
    def start() -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "chexreason.cli.review", f"file={traces}", "port=0", "reviewers=[anna]",
                   f"paths.out={traces.parent / 'out'}"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=traces.parent)
        lines = iter(process.stdout.readline, "")
        return process, next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))

    def state(address: str) -> dict:
        return json.loads(urllib.request.urlopen(address + "state", timeout=10).read())

    process, address = start()
    cases = state(address)["cases"]
    said = json.dumps({"verdict": "reject", "reason": REASONS[1], "text_sha256": cases[2]["text_sha256"]}).encode()
    request = urllib.request.Request(address + "decision/2", said, {"Content-Type": "application/json"})
    assert urllib.request.urlopen(request, timeout=10).status == 200
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    process, again = start()
    assert again.split("/")[3] == address.split("/")[3]  # a reader's link still holds
    assert state(again)["cases"][2]["decision"]["reason"] == REASONS[1]
    process.send_signal(signal.SIGINT)
    said_last = process.communicate(timeout=30)[0]
    assert process.returncode == 0
    assert "anna: 1 of 4 decided, 0 accepted, 0 edited, 1 rejected" in said_last
    left = read_traces(traces.parent / "out" / "review" / "traces.jsonl")
    assert [t.study_id for t in left] == [t.study_id for t in read_traces(traces) if t.study_id != cases[2]["study_id"]]
