"""Run directories: one owner, one config, a DONE marker, time added up over attempts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from chexreason import runs
from chexreason.evaluation.curves import merge_attempts

CFG = OmegaConf.create({"name": "x", "phase": {"lr": 0.1, "betas": [0.9, 0.95]}, "paths": {"out": "out"}})


HOLD = """
import sys, time
from omegaconf import OmegaConf
from chexreason import runs
with runs.open_run(sys.argv[1], OmegaConf.create({})):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.mark.slow
def test_a_second_run_in_the_same_directory_is_refused(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(runs.RunError, match="in use by another run"), runs.open_run(tmp_path, OmegaConf.create({})):
            pass
    finally:
        other.kill()
        other.wait()
    with runs.open_run(tmp_path, OmegaConf.create({})):  # a killed run never blocks its own resume
        pass


def test_another_config_in_the_same_directory_is_refused(tmp_path):
    with runs.open_run(tmp_path, CFG):
        pass
    moved = OmegaConf.merge(CFG, {"paths": {"out": "elsewhere"}})
    with runs.open_run(tmp_path, moved):  # where it is written does not change what is computed
        pass
    other = OmegaConf.merge(CFG, {"phase": {"lr": 0.2}})
    with pytest.raises(runs.RunError, match=r"phase\.lr: 0\.1 -> 0\.2"), runs.open_run(tmp_path, other):
        pass


def test_seconds_add_up_over_attempts(tmp_path):
    for _ in range(2):
        with runs.open_run(tmp_path, CFG):
            time.sleep(0.05)
    stage = json.loads((tmp_path / runs.STAGE).read_text())
    assert 0.1 <= stage["seconds"] < 5
    assert stage["peak_rss_bytes"] > 1e6


def test_done_is_written_last_and_read_back(tmp_path):
    assert not runs.is_done(tmp_path)
    runs.mark_done(tmp_path, {"f1": 0.5})
    assert runs.is_done(tmp_path)
    assert runs.read_done(tmp_path) == {"f1": 0.5}


def test_a_resumed_attempt_replaces_the_steps_it_repeats(tmp_path):
    for attempt, rows in enumerate(("0,1\n1,1\n2,1\n", "2,9\n3,9\n")):
        folder = tmp_path / "metrics" / f"version_{attempt}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,train/loss\n" + rows)
    merged = merge_attempts(tmp_path / "metrics", tmp_path / "metrics.csv")
    assert merged["train/loss"].tolist() == [1, 1, 9, 9]
    assert (tmp_path / "metrics.csv").read_text().startswith("step,train/loss\n0,1\n1,1\n2,9\n")
    with pytest.raises(FileNotFoundError, match=r"no metrics\.csv"):
        merge_attempts(Path(tmp_path / "none"), tmp_path / "x.csv")
