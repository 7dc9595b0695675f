"""Fingerprints: equal for copies of one film, far apart for two films, fast to compare."""

from __future__ import annotations

import io
import time
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from chexreason.data.fingerprint import near_pairs, perceptual_hash
from chexreason.data.leakage import RADIUS, WARNING_RADIUS
from tools.tiny_models.phantom_stream import stream

HASHES = st.one_of(st.just(""), st.integers(0, 2**12 - 1).map(lambda n: f"{n:064x}"))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def distance(one: Image.Image, other: Image.Image) -> int:
    return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()


@pytest.fixture(scope="module")
def films() -> list[Image.Image]:
    """Twelve phantoms of twelve patients, 1024 pixels a side."""
    small = [Image.fromarray(pixels) for pixels, _ in islice(stream(0), 12)]
    return [image.resize((1024, 1024), Image.Resampling.BICUBIC) for image in small]


@pytest.mark.parametrize(
    "copy",
    [
        lambda film: jpeg(film, 30),
        lambda film: film.resize((320, 320), Image.Resampling.BICUBIC),
        lambda film: jpeg(film.resize((320, 320), Image.Resampling.BILINEAR), 75),
        lambda film: film.resize((224, 300), Image.Resampling.LANCZOS),
        lambda film: ImageEnhance.Brightness(film).enhance(0.8),
        lambda film: film.convert("RGB"),
    ],
)
def test_a_copy_is_recognised(films, copy):
    assert max(distance(film, copy(film)) for film in films) <= RADIUS


def test_two_films_are_told_apart(films):
    apart = [distance(one, other) for i, one in enumerate(films) for other in films[:i]]
    assert min(apart) > WARNING_RADIUS


VIEWS = {turn.name.lower(): lambda film, turn=turn: film.transpose(turn) for turn in Image.Transpose}
VIEWS |= {"negative": ImageOps.invert, "negative_turned": lambda film: ImageOps.invert(film.rotate(90, expand=True))}


@pytest.mark.parametrize("name", VIEWS)
def test_a_mirrored_turned_or_negative_film_is_near_to_itself_alone(films, name):
    films = [film.resize((640 + i, 480)) for i, film in enumerate(films)]  # no square
    found = near_pairs(*([perceptual_hash(film) for film in of] for of in (films, map(VIEWS[name], films))), RADIUS)
    np.testing.assert_array_equal(found[:, :2], [[i, i] for i in range(len(films))])
    twice = [VIEWS[name](jpeg(film, 60)) for film in films]
    assert len(near_pairs([perceptual_hash(film) for film in films], list(map(perceptual_hash, twice)), RADIUS)) == 12


def test_real_films_of_different_patients_are_in_no_view_near(shared_data):
    table = pd.read_csv(shared_data / "kermany_test" / "labels.csv").drop_duplicates("patient_id")
    hashes = [perceptual_hash(Image.open(shared_data / "kermany_test" / path)) for path in table["path"]]
    found = near_pairs(hashes, hashes, WARNING_RADIUS)  # 91,000 pairs
    np.testing.assert_array_equal(found, [[i, i, 0] for i in range(len(hashes))])


def test_a_flat_picture_has_no_hash_and_is_near_to_none_and_another_length_is_refused():
    assert perceptual_hash(Image.new("L", (50, 40), 7)) == ""
    assert len(near_pairs(["", ""], ["", "0" * 64], 256)) == 0
    with pytest.raises(ValueError, match=r"'00ff' is no perceptual hash of this version; prepare the data sets again"):
        near_pairs(["00ff"], [""], 0)


def nearest_view(one: str, other: str) -> int:
    """Differing bits of two hashes, of the nearest of the 16 views, by the mathematics of cosines."""
    signs = [np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)).reshape(16, 16) for text in (one, other)]
    odd = (np.arange(3, 19) % 2).astype(np.uint8)
    masks = [y * odd[:, None] ^ x * odd[None] ^ negative for y, x, negative in np.ndindex(2, 2, 2)]
    return min(int((signs[0] ^ mask ^ seen).sum()) for mask in masks for seen in (signs[1], signs[1].T))


@settings(max_examples=50, deadline=None)
@given(st.lists(HASHES, max_size=8), st.lists(HASHES, max_size=8), st.integers(0, 40))
def test_near_pairs_are_those_of_the_definition(left, right, radius):
    bits = {(i, j): nearest_view(a, b) for i, a in enumerate(left) for j, b in enumerate(right) if a and b}
    expected = [(*pair, n) for pair, n in bits.items() if n <= radius]
    assert [tuple(pair) for pair in near_pairs(left, right, radius).tolist()] == expected


def test_all_words_and_all_blocks_are_compared():
    rng = np.random.default_rng(0)
    left = [rng.bytes(32).hex() for _ in range(150)]  # more than two blocks
    right = [f"{int(text, 16) ^ (1 << (i % 256)) ^ (1 << ((i + 100) % 256)):064x}" for i, text in enumerate(left)]
    np.testing.assert_array_equal(near_pairs(left, right, 2), [[i, i, 2] for i in range(150)])
    assert len(near_pairs(left, right, 1)) == 0


def test_three_million_pairs_take_a_moment():
    rng = np.random.default_rng(0)
    left, right = ([rng.bytes(32).hex() for _ in range(n)] for n in (2_000, 1_500))
    start = time.process_time()
    assert len(near_pairs(left, right, WARNING_RADIUS)) == 0
    assert time.process_time() - start < 1.0  # 0.03 s on a quiet core


def test_real_films_at_two_sizes_are_found(shared_data):
    tables = {name: pd.read_csv(shared_data / name / "labels.csv") for name in ("nih", "nih_lowres128")}
    both = tables["nih"].merge(tables["nih_lowres128"], on="image_index", suffixes=("", "_low"))[::20]
    large, low = (
        [perceptual_hash(Image.open(shared_data / name / path)) for path in both[column]]
        for name, column in (("nih", "path"), ("nih_lowres128", "path_low"))
    )
    np.testing.assert_array_equal(near_pairs(large, low, RADIUS)[:, :2], [[i, i] for i in range(len(both))])
