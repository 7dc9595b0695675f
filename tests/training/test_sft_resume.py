"""SFT resumes to the bit: dropout on, between accumulation steps, around validation, early stopping and the end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from chexreason.model.generate import key_seed
from chexreason.training.callbacks.adapter_export import AdapterExport
from chexreason.training.callbacks.checkpoint import ResumePoint
from chexreason.training.sft import SFTModule
from tests.support import training as t
from tests.support.deep import all_deep_but

pytestmark = pytest.mark.slow

TARGETS = r".*language_model.*layers\.0.*(q_proj|up_proj)"  # two projections: the order of events is tested


def run(studies, folder: Path, *, kill: t.KillAt | None = None, **stopping):
    """Three epochs of six studies, two to an update; a checkpoint in the folder is resumed from."""
    policy = t.policy_with_lora(0.3, targets=TARGETS)
    module = SFTModule(policy, **t.common(1), seed=7).train()
    point = folder / "last.ckpt"
    callbacks = [*([kill] if kill else []), AdapterExport(str(folder / "adapter"), "val/loss", "min", {})]
    callbacks += [ResumePoint(point, 1), EarlyStopping("val/loss", **({"patience": 9} | stopping))]
    length = {"max_epochs": 3, "accumulate_grad_batches": 2, "limit_val_batches": 1.0}
    # what a process has drawn so far must not matter
    torch.manual_seed(random.SystemRandom().getrandbits(32))
    start = str(point) if point.is_file() else None
    return t.fit(
        module, t.sft_data(policy, studies, 1, 2, n_val=2), folder, ckpt_path=start, callbacks=callbacks, **length
    )


def adapters(folder: Path) -> dict[str, bytes]:
    return {w: (folder / "adapter" / w / "adapter_model.safetensors").read_bytes() for w in ("best", "last")}


@pytest.fixture(scope="module")
def whole(studies, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    trainer = run(studies, folder)
    assert trainer.global_step == 9
    return adapters(folder)


POINTS = {
    "before the first checkpoint": (t.KillAt("on_train_batch_start", t.at_batch(1)), False),
    "between accumulation steps": (t.KillAt("on_after_backward", t.at_batch(4)), True),
    "before the optimiser's step": (t.KillAt("on_before_optimizer_step", t.at_batch(3)), True),
    "after the last step of an epoch": (t.KillAt("on_validation_start", t.at_batch(5)), True),
    "inside validation": (t.KillAt("on_validation_batch_start", t.at_batch(11)), True),
    "after validation": (t.KillAt("on_train_epoch_start", lambda trainer: trainer.current_epoch == 2), True),
    "inside the last validation": (t.KillAt("on_validation_batch_end", t.at_batch(17)), True),
    "at the end of training": (t.KillAt("on_train_end", lambda trainer: True), True),
}


@pytest.mark.parametrize("point", all_deep_but("between accumulation steps", POINTS))
def test_a_killed_run_ends_with_the_same_adapters(studies, whole, tmp_path, point):
    kill, has_checkpoint = POINTS[point]
    with pytest.raises(t.Killed):
        run(studies, tmp_path, kill=kill)
    assert (tmp_path / "last.ckpt").is_file() == has_checkpoint
    run(studies, tmp_path)
    assert adapters(tmp_path) == whole


def test_a_run_killed_after_it_stopped_early_does_not_go_on(studies, tmp_path):
    options = {"patience": 1, "mode": "max"}  # the loss falls, so it stops
    assert run(studies, tmp_path / "whole", **options).global_step < 9
    with pytest.raises(t.Killed):
        run(studies, tmp_path / "killed", kill=t.KillAt("on_train_end", lambda trainer: True), **options)
    assert (tmp_path / "killed" / "last.ckpt").is_file()
    run(studies, tmp_path / "killed", **options)
    assert adapters(tmp_path / "killed") == adapters(tmp_path / "whole")


def test_dropout_masks_differ_between_batches_and_ranks():
    keys = [(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)]
    assert len({key_seed(key) for key in keys}) == len(keys)
    assert key_seed((0, 1, 2)) == key_seed((0, 1, 2))
