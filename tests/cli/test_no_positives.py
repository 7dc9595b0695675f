"""Runs on a set that holds no positive mark: F1 over its supported labels has no value, and that stops nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chexreason import runs
from chexreason.build.data import build_manifests
from chexreason.cli import report
from chexreason.cli.evaluate import evaluate
from chexreason.cli.rewards import adversarial
from chexreason.cli.train import train
from chexreason.data import manifest
from chexreason.data.prepare import MANIFEST_NAME
from chexreason.labels.catalog import CHEXPERT14
from chexreason.runs import DONE
from chexreason.statistics.partial import partial_path
from tests.support.configs import composed

pytestmark = pytest.mark.slow
SETTINGS = (
    "data.sets.phantom_a.source.n={sft: 4, rl: 0, val: 2, test: 2}",
    "data.sets.phantom_b.source.n={val: 2, test: 2}",
    "name=demo",
)
TRAIN = ("phase=sft", "phase.max_epochs=1", "phase.batch_size=2", "preflight=false", "callbacks.progress=false")
SHORT = "model.max_new_tokens=4"
NINE = "data.sets.phantom_b.label_list=nih9"
NO_VALUE = "macro_f1_supported"


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> tuple[str, str]:
    """Where to write, and two prepared hospitals, the second of which marks nothing as present."""
    out = tmp_path_factory.mktemp("out")
    paths = (f"paths.out={out}", f"paths.data={out}")
    cfg = composed("prepare", *SETTINGS, *paths)
    away = build_manifests(cfg, on_error="stop", workers=1)["phantom_b"]
    frame = away.frame.assign(**{label: away.frame[label].clip(upper=0) for label in CHEXPERT14.labels})
    path = Path(cfg.data.folder) / "phantom_b" / MANIFEST_NAME
    manifest.write_manifest(manifest.Manifest(frame, away.provenance, away.root), path)
    return paths


def test_an_evaluation_writes_what_has_no_value_as_null(paths):
    cfg = composed("evaluate", *SETTINGS, *paths, SHORT)
    evaluate(cfg)
    scores = json.loads((Path(cfg.run_dir) / "metrics.json").read_text())
    assert scores["phantom_b"][NO_VALUE] is None
    assert scores["phantom_a"][NO_VALUE] is not None
    assert (Path(cfg.run_dir) / DONE).is_file()


def test_no_reward_is_computed_without_a_positive_label(paths):
    cfg = composed("rewards", *SETTINGS[:2], *paths, "studies=prepared", "split=val", "data.home=phantom_b")
    with pytest.raises(ValueError, match=r"none of the 2 studies of 'phantom_b' in split=val has a positive label"):
        adversarial(cfg)


def test_a_set_that_cannot_be_scored_is_refused_before_any_is_answered(paths, tmp_path):
    shutil.copytree(paths[1].partition("=")[2], tmp_path, dirs_exist_ok=True)
    cfg = composed("evaluate", *SETTINGS, f"paths.out={tmp_path}", f"paths.data={tmp_path}", SHORT, "arm=blank", NINE)
    path = Path(cfg.data.folder) / "phantom_b" / MANIFEST_NAME
    away = manifest.read_manifest(path)
    frame = away.frame.assign(**dict.fromkeys(CHEXPERT14.labels, float("nan")))
    frame["Fracture"] = 1.0  # which is not in the list of the set: without any mark it would be a set without labels
    manifest.write_manifest(manifest.Manifest(frame, away.provenance, away.root), path)
    with pytest.raises(ValueError, match="none of the 2 studies of 'phantom_b' in test has a judged label"):
        evaluate(cfg)
    assert not partial_path(Path(cfg.run_dir) / runs.PREDICTIONS).exists()


def test_a_training_run_ends_and_is_read_back(paths):
    cfg = composed("train", *SETTINGS, *paths, *TRAIN, SHORT)
    metrics, _ = train(cfg)
    assert metrics[f"val/phantom_b/{NO_VALUE}"] is None
    assert runs.read_done(cfg.run_dir) == metrics
    command = [sys.executable, "-m", "chexreason.cli.train", *SETTINGS, *paths, *TRAIN, SHORT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "is DONE: nothing to train" in done.stdout + done.stderr


def test_a_run_that_was_stopped_is_not_taken_for_a_whole_one(paths, tmp_path, caplog):
    cfg = composed("train", *SETTINGS, *paths, *TRAIN, SHORT, f"run_dir={tmp_path}")
    with runs.open_run(tmp_path, cfg):
        runs.mark_done(tmp_path, {"val/loss": 1.0, runs.STOPPED: "rollout 3: too few answers differ"})
    with caplog.at_level("INFO"):
        assert train(cfg) == ({"val/loss": 1.0}, {})
    assert "is DONE (stopped at rollout 3: too few answers differ): nothing to train" in caplog.text
    (tmp_path / runs.COLLAPSE).write_text(
        '[{"rollout": 3, "limit": "min_distinct", "reason": "too few answers differ"}]'
    )
    notes = report._notes(composed("report", *SETTINGS, *paths), {"grpo": tmp_path})
    assert notes["signs of collapse in grpo"] == "rollout 3: too few answers differ"
    assert notes["grpo was stopped"] == "rollout 3: too few answers differ"
