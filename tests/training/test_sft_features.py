"""SFT with the feature cache: films are read in the first epoch alone, and a resumed run ends with the same bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from chexreason.data import batches
from chexreason.model.features import cache_films
from chexreason.training.callbacks.checkpoint import ResumePoint
from chexreason.training.datamodule import StudyData
from chexreason.training.sft import SFTModule
from chexreason.types import Sample
from tests.support import training as t
from tests.support.deep import all_deep_but
from tests.support.families import FAMILIES

pytestmark = pytest.mark.slow

TARGETS = r".*language_model.*layers\.0.*(q_proj|up_proj)"


def run(studies, folder: Path, cache: Path | None, model: str, kill: int | None = None) -> dict[str, torch.Tensor]:
    """Three epochs of six studies, two a batch, in another order each; a checkpoint in the folder is resumed from."""
    policy = t.policy_with_lora(0.3, model, targets=TARGETS)
    module = SFTModule(policy, **t.common(1), seed=7).train()
    samples = [Sample(s, "Describe.", a) for s, a in zip(studies, t.ANSWERS, strict=True)]
    collate = cache_films(policy, None, cache and str(cache)).collate()
    data = StudyData(collate, samples, {}, batch_size=2, eval_batch_size=2)
    point = folder / "last.ckpt"
    killing = [] if kill is None else [t.KillAt("on_train_batch_start", t.at_batch(kill))]
    start = str(point) if point.is_file() else None
    t.fit(module, data, folder, ckpt_path=start, callbacks=[*killing, ResumePoint(point, 1)], max_epochs=3)
    return t.weights(module)


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """The films that were decoded."""
    found: list[str] = []
    decode = batches.load_image
    monkeypatch.setattr(batches, "load_image", lambda path, *sha256: found.append(path.name) or decode(path, *sha256))
    return found


@pytest.mark.parametrize("model", all_deep_but("tiny_gemma3", FAMILIES))
def test_a_killed_run_ends_with_the_same_bits_whatever_became_of_the_cache(studies, tmp_path, seen, model):
    whole = run(studies, tmp_path / "whole", tmp_path / "cache", model)
    assert sorted(seen) == sorted(study.image.name for study in studies)  # once each, in three epochs
    for name, kill in (("kept", 5), ("emptied", 4), ("in the first epoch", 1)):
        folder, cache = tmp_path / name, tmp_path / f"cache {name}"
        with pytest.raises(t.Killed):
            run(studies, folder, cache, model, kill=kill)
        if name == "emptied":
            shutil.rmtree(cache)
        t.assert_same(whole, run(studies, folder, cache, model))


def test_without_the_cache_the_run_learns_the_same(studies, tmp_path):
    found = [run(studies, tmp_path / str(cache), cache, "tiny_gemma3") for cache in (tmp_path / "cache", None)]
    t.assert_same(found[0], found[1], atol=2e-4)
