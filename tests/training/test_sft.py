"""Supervised fine-tuning of a packaged policy: what it trains, and what stays the same however the batch is cut.

With the feature cache films are read in the first epoch alone, and a resumed run ends with the same bits.
"""

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

pytestmark = pytest.mark.slow  # each test runs a model


def test_an_sft_update_does_not_depend_on_how_it_is_cut(studies, tmp_path):
    results = []
    for size, steps in ((6, 1), (2, 3), (1, 6)):
        policy = t.policy_with_lora()
        sgd = t.common() | {"make_optimizer": lambda p: torch.optim.SGD(p, lr=1.0)}
        module = SFTModule(policy, **sgd)
        data = t.sft_data(policy, studies, size, steps)
        t.fit(module, data, tmp_path, max_epochs=1, accumulate_grad_batches=steps)
        results.append(t.weights(module))
    t.assert_same(results[0], results[1], atol=2e-6)
    t.assert_same(results[0], results[2], atol=2e-6)


def test_sft_learns_the_answers_and_touches_nothing_else(studies, tmp_path):
    policy = t.policy_with_lora()
    module = SFTModule(policy, **t.common())
    frozen = {n: p.clone() for n, p in policy.named_parameters() if not p.requires_grad}
    data = t.sft_data(policy, studies, 3, 1)
    batch = next(iter(data.train_dataloader()))
    before = module._scores(batch).logp.sum()
    t.fit(module, data, tmp_path, max_epochs=8)
    assert module._scores(batch).logp.sum() > before + 5
    t.assert_same(frozen, dict(policy.named_parameters()))


def test_sft_loss_is_on_the_answer_and_its_stop_token_alone(studies):
    policy = t.policy_with_lora()
    data = t.sft_data(policy, studies, 2, 1)
    batch = next(iter(data.train_dataloader()))
    texts = policy.decode(batch.answer_ids, batch.answer_mask)
    assert texts == [item.answer for item in batch.samples]
    ends = batch.answer_mask.sum(1) - 1
    assert batch.answer_ids[torch.arange(2), ends].tolist() == [policy.stop_ids[0]] * 2
    assert batch.update_tokens == batch.answer_mask.sum()


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
