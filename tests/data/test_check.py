"""The pass over all images."""

import numpy as np
import pytest
from PIL import Image

from chexreason.data.check import check_images


def films(folder, n):
    paths = [folder / f"{i}.png" for i in range(n)]
    for path in paths:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return paths


@pytest.mark.parametrize("workers", [1, 4])
def test_all_bad_files_are_found_in_order(tmp_path, workers):
    paths = films(tmp_path, 12)
    paths[3].write_bytes(b"junk")
    paths[7].unlink()
    seen = []

    def progress(iterable, total):
        for item in iterable:
            seen.append(total)
            yield item

    bad = check_images(paths, workers, progress)
    assert [(image.index, image.path) for image in bad] == [(3, paths[3]), (7, paths[7])]
    assert "cannot identify" in bad[0].reason
    assert bad[1].reason == "no such file"
    assert seen == [12] * 12


def test_an_interrupt_drops_what_is_queued(tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr("chexreason.data.check._reason", lambda path: decoded.append(path))

    def interrupted(iterable, total):
        yield next(iter(iterable))
        raise KeyboardInterrupt

    paths = films(tmp_path, 1) * 3_000
    with pytest.raises(KeyboardInterrupt):
        check_images(paths, 1, interrupted)
    assert len(decoded) < len(paths)
