"""SIGTERM, SIGUSR1, SIGUSR2 in the middle of a step of a minute: status 75 within 20 s, and nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest
import torch

from tests.support.commands import ARMS, SETS, Command, assert_equal, free_port, rank_environment, resumed, what_is_left

pytestmark = pytest.mark.slow
SFT, GRPO = "chexreason.training.sft:SFTModule", "chexreason.grpo.module:GRPOModule"
TERM, USR1, USR2 = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
# What lasts a minute: of the arm, at the n-th call, in Python or in a foreign function; with the optimiser steps that
# are whole by then.
STEPS = {
    "between accumulation steps": ("sft", 0, (SFT, "training_step", 9, "python"), USR1, 4),
    "a step with loader workers": ("sft", 2, (SFT, "training_step", 12, "c"), TERM, 6),
    "the second update of a rollout": ("grpo", 1, (GRPO, "_update", 8, "c"), USR2, 6),
    "a rollout": ("grpo", 0, ("chexreason.grpo.module", "collect", 5, "python"), TERM, 8),
    "a validation": ("grpo", 0, ("chexreason.training.policy_module", "predict_batch", 4, "c"), USR1, 6),
    "the last adapter": ("grpo", 0, ("chexreason.training.callbacks.adapter_export", "save_adapter", 2, "c"), USR1, 12),
    "start-up": ("sft", 0, ("chexreason.build.training", "build_samples", 2, "c"), TERM, None),
}
IN_EVERY_RUN = ("a step with loader workers", "a validation")
SERIES = [case if case in IN_EVERY_RUN else pytest.param(case, marks=pytest.mark.deep) for case in STEPS]


def left(run: Command, *numbers: signal.Signals) -> None:
    """It ends with status 75 in time, and so do the processes it started, however often it is told."""
    children = [
        int(pid) for pid in Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    ]
    start = time.monotonic()
    for number in (*numbers, TERM, USR1):
        run.send(number)
        time.sleep(0.02)
    assert run.wait(20) == 75, run.said()
    assert time.monotonic() - start < 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() - start < 20
        time.sleep(0.05)


def last_attempt(folder: Path) -> dict:
    return json.loads((folder / "attempts.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("case", SERIES)
def test_a_run_ends_with_its_last_whole_step(case, whole, train, data, tmp_path):
    arm, workers, plant, number, steps = STEPS[case]
    folder = tmp_path / "run" / arm / "seed0"
    options = ("callbacks.checkpoint_every=1000", f"num_workers={workers}")  # no checkpoint but the one kept ready
    run = train(arm, *options, plant=plant)
    run.stuck()
    left(run, number)
    assert last_attempt(folder)["state"] == "preempted"
    assert (folder / "checkpoints" / "last.ckpt").exists() == (steps is not None)
    if steps is not None:
        point = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert point["global_step"] == steps
    assert_equal(whole(arm), resumed(tmp_path, *ARMS[arm], data, *options))


def test_an_evaluation_ends_and_goes_on(data, tmp_path):
    """Killed in its second batch, then told to end in its third: what is whole is read back, and nothing else."""
    options = ("name=run", "arm=base", "prompt=only_label", "model.max_new_tokens=4", "batch_size=2", *SETS, data)
    folders = [tmp_path / place / "run" / "eval" / "base" for place in ("cut", "whole")]
    for number in (signal.SIGKILL, TERM):
        plant = ("chexreason.model.generate", "predict_batch", 2, "python")
        run = Command(tmp_path / "cut", "evaluate", *options, plant=plant)
        run.stuck()
        if number == TERM:
            left(run, TERM)
        run.send(number)
        assert run.wait() in (75, -signal.SIGKILL)
    assert last_attempt(folders[0])["state"] == "preempted"
    assert len((folders[0] / "predictions.partial.jsonl").read_text().splitlines()) == 3  # a header, two batches
    for place in ("cut", "whole"):
        Command(tmp_path / place, "evaluate", *options).done()
    assert_equal(*map(what_is_left, folders))


def test_a_preparation_ends_with_nothing_half_written(data, tmp_path):
    arguments = ("prepare", "audit=false", *SETS)
    run = Command(tmp_path, *arguments, plant=("chexreason.data.check", "decode", 5, "c"))
    run.stuck()
    left(run, USR2)
    assert not list(tmp_path.rglob("manifest.parquet"))
    Command(tmp_path, *arguments).done()
    whole, again = Path(data.partition("=")[2]), tmp_path / "data"
    for manifest in whole.rglob("manifest.parquet"):
        assert (again / manifest.relative_to(whole)).read_bytes() == manifest.read_bytes()


def test_ctrl_c_keeps_its_meaning(train, tmp_path):
    run = train("sft", plant=(SFT, "training_step", 2, "python"))
    run.stuck()
    run.send(signal.SIGINT)
    assert run.wait(60) == 130, run.said()
    assert last_attempt(tmp_path / "run" / "sft" / "seed0")["state"] == "cut"


SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in *show*) echo "JobId=7 JobState=RUNNING Reason=None Requeue=1 BatchFlag=1";; esac
"""


def test_a_slurm_job_is_requeued_and_its_old_checkpoint_is_not_preferred(whole, train, data, tmp_path):
    """Lightning finds SLURM here: its own requeue would save in mid-step, and begin with what it once saved."""
    stub, calls = tmp_path / "bin" / "scontrol", tmp_path / "calls.txt"
    stub.parent.mkdir()
    stub.write_text(SCONTROL.format(calls=calls))
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_JOB_NAME": "train", "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    folder = tmp_path / "run" / "sft" / "seed0"
    folder.mkdir(parents=True)
    (folder / "hpc_ckpt_1.ckpt").write_bytes(b"an empty state dict")
    run = train("sft", plant=(SFT, "training_step", 2, "c"), environment=job)
    run.stuck()
    left(run, USR1)
    assert calls.read_text().splitlines() == ["-o show job 7", "requeue 7"]
    assert [path.name for path in folder.glob("hpc*")] == ["hpc_ckpt_1.ckpt"]
    run = train("sft", "requeue=false", plant=(SFT, "training_step", 9, "c"), environment=job)
    run.stuck()
    left(run, USR1)
    assert len(calls.read_text().splitlines()) == 2
    assert_equal(whole("sft"), resumed(tmp_path, *ARMS["sft"], data, environment=job))


TWO = (
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "phase.batch_size=1",
    "callbacks.checkpoint_every=1000",
    "num_workers=1",
)


def two_ranks(out: Path, data: str, plant: tuple | None = None) -> list[Command]:
    port = free_port()
    arguments = ("train", *ARMS["grpo"], *TWO, data)
    return [
        Command(out, *arguments, plant=plant, environment=rank_environment(rank, port), log=f"log{rank}.txt")
        for rank in (0, 1)
    ]


@pytest.mark.deep
def test_two_ranks_that_get_the_signal_themselves(data, tmp_path):
    """The second is in a step of a minute, and the first waits for it in a collective."""
    for run in two_ranks(tmp_path / "whole", data):
        run.done()
    broken = tmp_path / "broken"
    ranks = two_ranks(broken, data, (GRPO, "_update", 8, "c", "1"))
    ranks[1].until((broken / "stuck").exists)
    time.sleep(1.0)
    for run in ranks[::-1]:
        run.send(TERM)
    assert [run.wait(20) for run in ranks] == [75, 75], ranks[0].said() + ranks[1].said()
    assert torch.load(broken / "run/grpo/seed0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    for run in two_ranks(broken, data):
        run.done()
    assert_equal(*(what_is_left(out / "run/grpo/seed0") for out in (tmp_path / "whole", broken)))


@pytest.mark.deep
def test_ranks_that_lightning_started_end_with_the_first(train, tmp_path):
    run = train("grpo", *TWO, plant=(GRPO, "_update", 4, "c"))
    run.stuck()
    left(run, TERM)
    assert torch.load(tmp_path / "run/grpo/seed0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
