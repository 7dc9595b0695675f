"""The image cache: the same tensors as without it, whatever happens to its files."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from chexreason.data.batches import Collate, load_study
from chexreason.data.cache import ImageCache
from chexreason.data.image import ImageError, load_image
from chexreason.types import Sample

pytestmark = pytest.mark.slow  # each test runs a processor


@pytest.fixture
def films(studies, tmp_path):
    """Studies of awkward films: larger, smaller, tall, wide, coloured, 16-bit; with the hashes of their files."""
    rng = np.random.default_rng(1)
    grey = [rng.integers(0, 255, size, dtype=np.uint8) for size in ((300, 500), (500, 200), (90, 90), (128, 128))]
    images = [*map(Image.fromarray, grey), Image.fromarray(rng.integers(0, 255, (200, 210, 3), dtype=np.uint8))]
    images.append(Image.fromarray(rng.integers(0, 4000, (200, 160), dtype=np.uint16)))
    found = []
    for study, image in zip(studies, images, strict=True):
        path = tmp_path / study.image.name
        image.save(path)
        found.append(replace(study, image=path, image_sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    return found


def shrink(image: Image.Image) -> Image.Image:
    return image.resize((16, 16))


@pytest.fixture
def cache(tmp_path):
    return ImageCache(tmp_path / "cache", shrink, "key")


def entries(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_tensors_are_equal_bit_by_bit(policy, films, tmp_path):
    cache = ImageCache(tmp_path / "cache", policy.resize, policy.encoder.resize_key)
    items = [(Sample(study, "Describe."), 0.0) for study in films]
    plain = policy.collate()(items).prompts
    cached = Collate(partial(policy.encode, resized=True), policy.encode_answers, cache.load)
    for _ in ("written", "read"):
        prompts = cached(items).prompts
        assert torch.equal(prompts.pixel_values, plain.pixel_values)
        assert torch.equal(prompts.input_ids, plain.input_ids)
        assert (prompts.grid is None and plain.grid is None) or torch.equal(prompts.grid, plain.grid)
    assert len(entries(tmp_path)) == len(films)


def test_an_entry_spares_the_decoder(films, cache, tmp_path):
    first = [cache.load(study) for study in films]
    for study in films:
        study.image.unlink()
    again = [ImageCache(tmp_path / "cache", shrink, "key").load(study) for study in films]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert other.mode == "RGB"
    with pytest.raises(ImageError, match="no such file"):  # another size is another entry
        ImageCache(tmp_path / "cache", shrink, "other").load(films[0])


def test_without_a_known_hash_the_file_is_hashed(films, cache, tmp_path):
    study = replace(films[0], image_sha256="")
    cache.load(study)
    assert [path.name for path in entries(tmp_path)] == [films[0].image_sha256]
    Image.new("L", (20, 20), 9).save(study.image)
    assert np.asarray(cache.load(study)).max() == 9  # the content has changed, so has the key
    study.image.unlink()
    with pytest.raises(ImageError, match="no such file"):
        cache.load(study)


def test_a_file_that_changed_after_prepare_is_refused_and_never_kept(films, cache, tmp_path):
    kept = cache.load(films[0])
    for study in films[:2]:
        Image.new("L", (20, 20), 9).save(study.image)
    assert cache.load(films[0]) == kept  # the picture of its hash
    for load in (cache.load, load_study):
        with pytest.raises(ImageError, match="not those that were prepared: prepare its data set again"):
            load(films[1])
    assert [path.name for path in entries(tmp_path)] == [films[0].image_sha256]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:50], lambda b: b"", lambda b: b[:-9] + b"\0" + b[-8:], lambda b: b[4:]]
)
def test_a_damaged_entry_is_made_anew(films, cache, tmp_path, damage):
    expected = np.asarray(cache.load(films[4]))
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    np.testing.assert_array_equal(np.asarray(cache.load(films[4])), expected)
    assert entry.read_bytes() == whole


def test_a_grey_film_takes_one_byte_a_pixel(films, cache, tmp_path):
    for study in (films[0], films[4]):
        cache.load(study)
    grey, colour = sorted(path.stat().st_size for path in entries(tmp_path))
    assert (grey, colour) == (16 * 16 + 132, 3 * 16 * 16 + 132)


def test_many_readers_share_a_folder(films, tmp_path):
    caches = [ImageCache(tmp_path / "cache", shrink, "key") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda i: np.asarray(caches[i % 4].load(films[i % 3])), range(48)))
    for i, pixels in enumerate(loaded):
        np.testing.assert_array_equal(pixels, np.asarray(shrink(load_image(films[i % 3].image))))
    assert len(entries(tmp_path)) == 3  # no temporary file is left


def test_a_folder_that_cannot_be_written_slows_and_does_not_stop(films, cache, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        for study in films[:3]:
            np.testing.assert_array_equal(np.asarray(cache.load(study)), np.asarray(shrink(load_study(study))))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "takes no more" in caplog.text
