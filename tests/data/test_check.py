"""The pass over all images: facts, faults, and a memory that survives being killed."""

from __future__ import annotations

import hashlib
import json
import os
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from chexreason.data import check
from chexreason.data.check import inspect_images


@pytest.fixture
def films(tmp_path):
    """Twelve different films."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 30), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def decoded(monkeypatch):
    """The paths that are decoded while a test runs."""
    seen = []
    decode = check.decode
    monkeypatch.setattr(check, "decode", lambda path, data: seen.append(path) or decode(path, data))
    return seen


def killed(after):
    """A meter that is interrupted after so many images."""

    def track(iterable, total):
        yield from islice(iterable, after)
        raise KeyboardInterrupt

    return track


def test_facts_are_the_files_own(films):
    facts = inspect_images(films)
    assert [image.path for image in facts] == films
    assert {(image.transparent, image.reason) for image in facts} == {(False, "")}
    assert facts[3].sha256 == hashlib.sha256(films[3].read_bytes()).hexdigest()
    assert len({image.phash for image in facts}) == 12


@pytest.mark.parametrize("workers", [1, 4])
def test_each_fault_has_its_reason_and_its_place(films, workers):
    films[1].write_bytes(b"")
    films[3].write_bytes(b"junk")
    films[5].write_bytes(films[5].read_bytes()[:200])
    films[7].unlink()
    films[9].unlink()
    films[9].mkdir()
    films[11].unlink()
    films[11].symlink_to("gone.png")
    seen = []

    def progress(iterable, total):
        for item in iterable:
            seen.append(total)
            yield item

    facts = inspect_images(films, None, workers, progress)
    reasons = {i: image.reason for i, image in enumerate(facts) if image.reason}
    expected = {1: "0 bytes", 3: "cannot identify", 5: "truncated", 7: "no such file", 9: "Is a directory"}
    expected[11] = "a link to gone.png: no such file"
    assert list(reasons) == list(expected)
    assert all(expected[i] in reason for i, reason in reasons.items()), reasons
    assert all(not image.sha256 and not image.phash for image in facts if image.reason)
    assert seen == [12] * 12


def test_a_second_pass_reads_only_what_changed(films, tmp_path, decoded):
    record = tmp_path / "deep" / "images.jsonl"
    films[2].write_bytes(b"junk")
    first = inspect_images(films, record)
    decoded.clear()
    assert inspect_images(films, record) == first
    assert decoded == [films[2]]  # unreadable files are looked at again: what was missing may be there now
    Image.new("L", (5, 5)).save(films[2])
    Image.new("L", (6, 6)).save(films[4])
    os.utime(films[0], ns=(0, 12_345))  # put back, with the same size
    decoded.clear()
    second = inspect_images(films, record)
    assert set(decoded) == {films[0], films[2], films[4]}
    assert (second[2].reason, second[4].phash) == ("", "")


def test_a_killed_pass_goes_on_where_it_was(films, tmp_path, decoded):
    record = tmp_path / "images.jsonl"
    with pytest.raises(KeyboardInterrupt):
        inspect_images(films, record, 1, killed(after=5))
    assert sum(bool(line.strip()) for line in record.read_text().splitlines()) == 5
    with record.open("a") as file:
        file.write('{"version": 1, "path": "')  # what a kill in the middle of a write leaves
    decoded.clear()
    whole = inspect_images(films, record)
    assert set(decoded) == set(films[5:])
    decoded.clear()
    assert inspect_images(films, record) == whole
    assert not decoded


def test_an_interrupt_drops_what_is_queued(films, decoded):
    with pytest.raises(KeyboardInterrupt):
        inspect_images(films * 300, None, 1, killed(after=1))
    assert len(decoded) < 50


def test_other_fingerprints_are_computed_again(films, tmp_path, decoded, monkeypatch):
    record = tmp_path / "images.jsonl"
    inspect_images(films, record)
    decoded.clear()
    monkeypatch.setattr(check, "VERSION", check.VERSION + 1)
    inspect_images(films, record)
    assert len(decoded) == 12
    assert {json.loads(line)["version"] for line in record.read_text().split("\n") if line} == {2, 3}
