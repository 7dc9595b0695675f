"""SFT resumes to the bit: dropout on, between accumulation steps, around validation, early stopping and the end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from chexreason.model.adapters import attach_lora
from chexreason.model.generate import key_seed
from chexreason.model.load import load_policy
from chexreason.training.callbacks.adapter_export import AdapterExport
from chexreason.training.callbacks.checkpoint import ResumePoint
from chexreason.training.datamodule import StudyData
from chexreason.training.sft import SFTModule
from chexreason.types import Sample
from tests.support import training as t

pytestmark = pytest.mark.slow

TARGETS = r".*language_model.*layers\.0.*(q_proj|up_proj)"  # two projections: the order of events is tested


def run(studies, folder: Path, *, kill: t.KillAt | None = None, **stopping):
    """Three epochs of six studies, two to an update; a checkpoint in the folder is resumed from."""
    policy = load_policy("tiny:tiny_gemma3", dtype="float32")
    torch.manual_seed(0)
    attach_lora(policy, r=4, alpha=8, dropout=0.3, targets=TARGETS)
    module = SFTModule(policy, **t.common(1), seed=7).train()
    samples = [Sample(s, "Describe.", a) for s, a in zip(studies, t.ANSWERS, strict=True)]
    sizes = {"batch_size": 1, "eval_batch_size": 2, "accumulate": 2}
    data = StudyData(policy.collate(), samples, {"set": samples[:2]}, **sizes)
    point = folder / "last.ckpt"
    callbacks = [*([kill] if kill else []), AdapterExport(str(folder / "adapter"), "val/loss", "min", {}, [])]
    callbacks += [ResumePoint(point, 1), EarlyStopping("val/loss", **({"patience": 9} | stopping))]
    # what a process has drawn so far must not matter
    torch.manual_seed(random.SystemRandom().getrandbits(32))
    options = {"max_epochs": 3, "accumulate_grad_batches": 2, "limit_val_batches": 1.0}
    start = str(point) if point.is_file() else None
    return t.fit(module, data, folder, ckpt_path=start, callbacks=callbacks, **options)


def adapters(folder: Path) -> dict[str, bytes]:
    return {w: (folder / "adapter" / w / "adapter_model.safetensors").read_bytes() for w in ("best", "last")}


@pytest.fixture(scope="module")
def whole(studies, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    trainer = run(studies, folder)
    assert trainer.global_step == 9
    return adapters(folder)


def batch(n: int):
    return lambda trainer: trainer.fit_loop.epoch_loop.total_batch_idx == n


POINTS = {
    "before the first checkpoint": (t.KillAt("on_train_batch_start", batch(1)), False),
    "between accumulation steps": (t.KillAt("on_after_backward", batch(4)), True),
    "before the optimiser's step": (t.KillAt("on_before_optimizer_step", batch(3)), True),
    "after the last step of an epoch": (t.KillAt("on_validation_start", batch(5)), True),
    "inside validation": (t.KillAt("on_validation_batch_start", batch(11)), True),
    "after validation": (t.KillAt("on_train_epoch_start", lambda trainer: trainer.current_epoch == 2), True),
    "inside the last validation": (t.KillAt("on_validation_batch_end", batch(17)), True),
    "at the end of training": (t.KillAt("on_train_end", lambda trainer: True), True),
}


@pytest.mark.parametrize("point", POINTS)
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
