"""`kill -9` at any moment, from outside: the same command ends with the files of an unbroken run, byte for byte."""

from __future__ import annotations

import csv
import random
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from chexreason.training.callbacks.run_files import RewardLog, SampleLog
from tests.support.commands import ARMS, assert_equal, resumed
from tests.support.deep import all_deep_but

pytestmark = pytest.mark.slow
MOMENTS, IN_EVERY_RUN = 30, 2  # of each arm and number of loader workers
POINTS = {"sft": 8, "grpo": 6, "stopped": 5}  # checkpoints of an unbroken run

SERIES = [
    pytest.param(arm, workers, moment, marks=[pytest.mark.deep] if moment >= IN_EVERY_RUN else [])
    for arm in ("sft", "grpo")
    for workers in (0, 1, 2)
    for moment in range(MOMENTS)
]
# By early stopping; moment 1 lies between its end and DONE: the run does not go on then.
SERIES += [pytest.param("stopped", 1, n, marks=[pytest.mark.deep] if n != 1 else []) for n in range(10)]
# Settings declared free, each at another value than the run began with.
FREE = {
    "callbacks.progress": ["callbacks.progress=true"],
    "logger": ["logger=wandb", "logger.wandb.offline=true"],
    "num_workers": ["num_workers=1"],
    "paths.feature_cache": ["paths.feature_cache=null"],
    "paths.image_cache": ["paths.image_cache=${paths.out}/images"],
    "requeue": ["requeue=false"],
}


@pytest.mark.parametrize(("arm", "workers", "moment"), SERIES)
def test_a_killed_run_ends_as_if_it_had_never_been_killed(arm, workers, moment, whole, train, data, tmp_path):
    """Every tenth moment lies in start-up, every tenth between the last step and DONE, the others anywhere between."""
    choose = random.Random(f"{arm} {workers} {moment}")
    expected = whole(arm)
    run, folder = train(arm, f"num_workers={workers}"), tmp_path / "run" / arm / "seed0"
    point, points = folder / "checkpoints" / "last.ckpt", set()
    if moment % 10 == 2:
        delay = choose.uniform(0.0, 4.0)
    elif moment % 10 == 1:
        run.until(lambda: any("last" in path.name for path in folder.glob("adapter/*")))
        delay = choose.uniform(0.0, 0.1)
    else:
        wanted = choose.randrange(1, POINTS[arm])
        run.until(lambda: point.exists() and (points.add(point.stat().st_mtime_ns) or len(points) >= wanted))
        delay = choose.uniform(0.0, 0.4)
    time.sleep(delay)
    run.send(signal.SIGKILL)
    assert run.wait() in (-signal.SIGKILL, 0), run.said()  # 0 where it was faster
    more = (workers + moment % 2) % 3  # every second time with another number of workers
    assert_equal(expected, resumed(tmp_path, *ARMS[arm], data, f"num_workers={more}"))


def killed_in_epoch_two(train, arm: str, folder: Path, *overrides: str) -> None:
    run = train(arm, *overrides)
    rows = folder / "metrics" / "version_0" / "metrics.csv"
    run.until(lambda: rows.exists() and any(row["epoch"] == "1" for row in csv.DictReader(rows.open())))
    run.send(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert (folder / "checkpoints" / "last.ckpt").exists()


SETTINGS = [(arm, setting) for arm in ("sft", "grpo") for setting in ("all at once", *FREE)]


@pytest.mark.parametrize("case", all_deep_but(("sft", "all at once"), SETTINGS), ids=" ".join)
def test_what_may_change_changes_nothing(case, whole, train, data, tmp_path):
    arm, setting = case
    killed_in_epoch_two(train, arm, tmp_path / "run" / arm / "seed0", "num_workers=2")
    changes = [change for one, more in FREE.items() for change in more if setting in (one, "all at once")]
    assert_equal(whole(arm), resumed(tmp_path, *ARMS[arm], data, *changes))


@pytest.mark.deep
def test_a_study_that_was_moved_goes_on(whole, train, data, tmp_path):
    killed_in_epoch_two(train, "grpo", tmp_path / "run" / "grpo" / "seed0", "num_workers=1")
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.copytree(tmp_path, moved)
    assert_equal(whole("grpo"), resumed(moved, *ARMS["grpo"], data))


@pytest.mark.deep
def test_a_checkpoint_of_an_earlier_version_is_read_without_workers(whole, train, data, tmp_path):
    """It kept no epoch, which workers need before Lightning tells it."""
    folder = tmp_path / "run" / "sft" / "seed0"
    killed_in_epoch_two(train, "sft", folder)
    point = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    del point["StudyData"]["epoch"], point["callbacks"]["ResumePoint"]["metrics"]
    torch.save(point, folder / "checkpoints" / "last.ckpt")
    assert_equal(whole("sft"), resumed(tmp_path, *ARMS["sft"], data, "num_workers=2"))


def test_the_runs_are_what_the_series_needs(whole):
    """Validations that are not the last thing, a reward whose memory counts, and figures of the last validation."""
    rollouts = list(csv.DictReader(whole("grpo")["metrics.csv"].decode().splitlines()))
    steps = [row["step"] for row in rollouts if row["train/reward"]]
    assert steps == ["0", "1", "2", "3", "4", "5", "6"]
    assert [row["step"] for row in rollouts if row["val/phantom_a/macro_f1"]] == ["1", "3", "5"]
    assert any(float(row["train/reward/collapse"] or 0) < 0 for row in rollouts)
    assert b'"val/phantom_a/macro_f1"' in whole("grpo")["DONE"]
    assert b'"value": null' not in whole("grpo")["adapter/last/chexreason.json"]


@pytest.mark.parametrize("torn", ["2,s1,p1,0.2", "2,s1", "1", ""])
def test_a_resumed_reward_log_forgets_what_is_done_again(tmp_path, torn):
    path = tmp_path / "rewards-rank1.csv"
    kept = "step,study_id,patient_id,reward\r\n0,s1,p1,0.5\r\n1,s2,p2,0.25\r\n"
    path.write_text(kept + "2,s3,p3,0.125\r\n" + torn, newline="")
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=1))
    RewardLog(tmp_path).on_train_start(SimpleNamespace(global_rank=1, fit_loop=loop), None)
    assert path.read_bytes().decode() == kept


@pytest.mark.parametrize("torn", ['{"step": 4, "text": "a"}\n', '{"step": 2', '{"step": 2}', "\0\n", "[]\n", ""])
def test_a_resumed_sample_log_forgets_what_is_done_again(tmp_path, torn):
    path = tmp_path / "samples.jsonl"
    kept = '{"step": 0, "text": "\u2028"}\n{"step": 2, "text": "b"}\n'
    path.write_text(kept + torn, encoding="utf-8")
    log, trainer = SampleLog(str(path)), SimpleNamespace(is_global_zero=True, global_step=2, ckpt_path="last.ckpt")
    log.on_fit_start(trainer, None)
    log.on_train_start(trainer, None)
    assert path.read_text(encoding="utf-8") == kept
    log.on_fit_start(SimpleNamespace(is_global_zero=True, ckpt_path=None), None)
    assert not path.exists()
