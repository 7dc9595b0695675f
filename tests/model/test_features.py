"""The feature cache: the same ids, logits and gradients as without it, whatever happens to its files."""

from __future__ import annotations

import hashlib
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from chexreason.data.batches import Collate
from chexreason.data.image import ImageError
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model import features
from chexreason.model.adapters import attach_lora
from chexreason.model.features import cache_films, features_key
from chexreason.model.generate import predict_batch
from chexreason.model.logprobs import completion_scores
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.types import Sample
from tests.support.adapters import with_lora

pytestmark = pytest.mark.slow  # each test runs a model

TEXTS = ("Describe.", "Is there a pleural effusion in this film, and on which side?", "Describe.")


@pytest.fixture
def films(studies, images, tmp_path):
    """Three studies of a tall, a wide and a square film, with the hashes of their files."""
    found = []
    for i, image in enumerate(images):
        path = tmp_path / f"{i}.png"
        image.resize(((160, 256), (300, 140), (128, 128))[i]).save(path)
        found.append(replace(studies[i], image=path, image_sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    return found


def items(films, answer: str | None = None):
    return [(Sample(film, text, answer), 1.0) for film, text in zip(films, TEXTS, strict=False)]


def cached(policy, folder, image_cache: str | None = None) -> Collate:
    return cache_films(policy, image_cache, str(folder)).collate()


def plain(policy) -> Collate:
    return cache_films(policy, None, None).collate()


def entries(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def fill(policy, films, folder):
    """Epoch 1."""
    return policy.with_features(cached(policy, folder)(items(films)).prompts)


def test_a_kept_film_needs_no_file_and_gives_the_ids_of_its_pixels(policy, films, tmp_path):
    expected = plain(policy)(items(films)).prompts
    first = fill(policy, films, tmp_path / "cache")
    for film in films:
        film.image.unlink()
    again = cached(policy, tmp_path / "cache")(items(films)).prompts
    for name in ("input_ids", "attention_mask", "type_ids"):
        assert torch.equal(getattr(again, name), getattr(expected, name)), name
        assert getattr(again, name).dtype == getattr(expected, name).dtype
    assert (expected.grid is None and again.grid is None) or torch.equal(again.grid, expected.grid)
    assert again.pixel_values is None
    for one, other in zip(first.features, again.features, strict=True):
        assert torch.equal(one, other)
    assert policy.with_features(again) is again
    with pytest.raises(ImageError, match="no such file"):
        plain(policy)(items(films))


def test_logits_and_gradients_are_those_of_the_plain_path(policy, films, tmp_path):
    with_lora(policy).train()
    fill(policy, films, tmp_path / "cache")
    values, gradients = [], []
    for collate in (cached(policy, tmp_path / "cache"), plain(policy)):
        batch = collate(items(films, "the heart is large"))
        assert (batch.prompts.features is None) == (collate.encode == policy.encode)
        policy.zero_grad()
        scores = completion_scores(policy, batch.prompts, batch.answer_ids, batch.answer_mask, shared=False)
        scores.logp.sum().backward()
        values.append(scores.logp.detach())
        gradients.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad})
    torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=0)
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name
    other = cached(policy, tmp_path / "cache")(items([films[1], films[0], films[2]], "the heart is large"))
    swapped = completion_scores(policy, other.prompts, other.answer_ids, other.answer_mask, shared=False).logp
    assert (swapped[:2] - values[0][:2]).abs().max() > 1e-3  # the features matter


def test_an_entry_does_not_depend_on_the_batch_it_came_with(policy, films, tmp_path):
    together = fill(policy, films, tmp_path / "a").features
    for i, film in enumerate(films):
        (alone,) = fill(policy, [film], tmp_path / "b").features
        assert torch.equal(alone, together[i])
    assert [p.read_bytes() for p in entries(tmp_path / "a")] == [p.read_bytes() for p in entries(tmp_path / "b")]


def test_a_batch_with_a_new_film_is_read_whole_and_kept(gemma, films, tmp_path):
    fill(gemma, films[:2], tmp_path / "cache")
    mixed = cached(gemma, tmp_path / "cache")(items(films)).prompts
    assert mixed.features is None
    assert mixed.images == tuple(film.image_sha256 for film in films)
    gemma.with_features(mixed)
    assert len(entries(tmp_path / "cache")) == 3


def test_bfloat16_stays_bfloat16(gemma, films, tmp_path):
    gemma.bfloat16()
    first = fill(gemma, films, tmp_path / "cache").features
    again = cached(gemma, tmp_path / "cache")(items(films)).prompts.features
    assert {f.dtype for f in again} == {torch.bfloat16}
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    n, width = first[0].shape
    assert entries(tmp_path / "cache")[0].stat().st_size < 2 * n * width + 200


def vision(policy):
    return next(p for n, p in policy.base.named_parameters() if "vision_tower" in n or "visual" in n)


def projector(policy):
    found = [p for n, p in policy.base.named_parameters() if "projector" in n or "merger" in n]
    return found[-1]


CHANGES = {
    "tower": lambda policy: vision(policy).data.view(-1)[0].add_(1.0),
    "projector": lambda policy: projector(policy).data.view(-1)[-1].add_(1.0),
    "dtype": lambda policy: policy.bfloat16(),
    "processor": lambda policy: setattr(policy.processor.image_processor, "image_mean", [0.4, 0.5, 0.5]),
    "interpolation": lambda policy: setattr(policy.processor.image_processor, "resample", 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_the_features_is_in_the_key(policy, change):
    before = features_key(policy)
    CHANGES[change](policy)
    assert features_key(policy) != before


def test_what_does_not_make_them_is_not(policy):
    before = features_key(policy)
    policy.base.lm_head.weight.data.add_(1.0)
    attach_lora(policy, r=4, alpha=8, dropout=0.1)
    assert features_key(policy) == before


def test_another_picture_under_the_same_name_is_another_entry(gemma, films, tmp_path):
    film = replace(films[0], image_sha256="")  # looked at each time
    first = fill(gemma, [film], tmp_path / "cache").features[0]
    Image.fromarray(np.full((160, 160), 9, dtype=np.uint8)).save(film.image)
    assert cached(gemma, tmp_path / "cache")(items([film])).prompts.features is None
    assert not torch.equal(fill(gemma, [film], tmp_path / "cache").features[0], first)
    unknown = cached(gemma, tmp_path / "cache").load(replace(films[1], image_sha256=""))
    Image.fromarray(np.full((160, 160), 9, dtype=np.uint8)).save(films[1].image)
    for late in (unknown, cached(gemma, tmp_path / "cache").load(films[1])):  # changed after the hash; after prepare
        with pytest.raises(ImageError, match="prepare its data set again"):
            cached(gemma, tmp_path / "cache").encode([late], TEXTS[:1])


@pytest.mark.parametrize(
    "damage", [lambda b: b[:50], lambda b: b"", lambda b: b[:-9] + b"\0" + b[-8:], lambda b: b[4:], lambda b: b"\0" * 4]
)
def test_a_damaged_entry_is_made_anew(gemma, films, tmp_path, damage):
    expected = fill(gemma, films[:1], tmp_path / "cache").features[0]
    (entry,) = entries(tmp_path / "cache")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    prompts = cached(gemma, tmp_path / "cache")(items(films[:1])).prompts
    assert prompts.features is None
    assert torch.equal(gemma.with_features(prompts).features[0], expected)
    assert entry.read_bytes() == whole


def test_many_readers_share_a_folder(gemma, films, tmp_path):
    expected = fill(gemma, films, tmp_path / "alone").features
    collate = cached(gemma, tmp_path / "cache")
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: gemma.with_features(collate(items([films[i % 3]])).prompts), range(24)))
    for i, prompts in enumerate(found):
        assert torch.equal(prompts.features[0], expected[i % 3])
    assert len(entries(tmp_path / "cache")) == 3  # no temporary file is left


def warnings(caplog):
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_a_folder_that_cannot_be_written_slows_and_does_not_stop(gemma, films, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    expected = fill(gemma, films, tmp_path / "other").features
    with caplog.at_level(logging.WARNING):
        found = fill(gemma, films, tmp_path / "cache").features
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(warnings(caplog)) == 1
    assert "takes no more" in warnings(caplog)[0]


def test_the_disk_is_never_filled_and_the_size_is_said(gemma, films, tmp_path, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        fill(gemma, films, tmp_path / "cache")
    (said,) = [record.message for record in caplog.records]
    assert "MiB an image, room for " in said
    caplog.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=features.RESERVE + 100))
    with caplog.at_level(logging.INFO):
        fill(gemma, films, tmp_path / "full")
    assert entries(tmp_path / "full") == []
    assert "2.0 GiB are free" in warnings(caplog)[0]


def test_features_that_would_change_are_refused(gemma, tmp_path):
    vision(gemma).requires_grad_(True)
    with pytest.raises(ValueError, match=r"under training.*paths\.feature_cache=null"):
        cached(gemma, tmp_path)


def test_both_caches_together(policy, films, tmp_path):
    folders = {"image_cache": str(tmp_path / "images")}
    expected = fill(policy, films, tmp_path / "alone").features
    prompts = cached(policy, tmp_path / "cache", **folders)(items(films)).prompts
    for one, other in zip(policy.with_features(prompts).features, expected, strict=True):
        assert torch.equal(one, other)


def test_predictions_are_the_same(gemma, films, tmp_path):
    predicted = [
        predict_batch(gemma, collate(items(films)), AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION), 4)
        for collate in (plain(gemma), *[cached(gemma, tmp_path / "cache")] * 2)
    ]
    assert predicted[0] == predicted[1] == predicted[2]
