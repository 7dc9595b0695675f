"""Reading radiographs: every usual pixel format, and no damaged file taken for a good one."""

import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from chexreason.audit.sheet import formats
from chexreason.data.image import ImageError, load_image
from chexreason.data.manifest import Manifest

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def pixels(path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_grey_and_rgb_pass_through(tmp_path):
    grey = (RAMP * 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "l.png")
    Image.fromarray(np.stack([grey, grey // 2, grey // 3], -1)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(pixels(tmp_path / "l.png"), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(pixels(tmp_path / "rgb.png"), np.stack([grey, grey // 2, grey // 3], -1))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_wide_grey_is_scaled_not_clipped(tmp_path, bits):
    wide = (RAMP * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    with Image.open(tmp_path / "wide.png") as file:
        assert file.mode.startswith("I")
    got = pixels(tmp_path / "wide.png")[..., 0]
    np.testing.assert_allclose(got, RAMP * 255, atol=1)
    assert len(np.unique(got)) == 64  # no two grey levels merged


def test_a_dark_wide_image_is_scaled_by_its_detector_not_by_itself(tmp_path):
    Image.fromarray((RAMP * 3000).astype(np.uint16)).save(tmp_path / "dark.png")
    assert pixels(tmp_path / "dark.png").max() == round(3000 / 4095 * 255)


def test_32_bit_grey_is_scaled_and_negative_levels_refused(tmp_path):
    Image.fromarray((RAMP * 1_000_000).astype(np.int32)).save(tmp_path / "i.tiff")
    np.testing.assert_allclose(pixels(tmp_path / "i.tiff")[..., 0], RAMP * 255, atol=1)
    Image.fromarray((RAMP * 100 - 50).astype(np.int32)).save(tmp_path / "negative.tiff")
    with pytest.raises(ImageError, match="pixel values go down to -50"):
        load_image(tmp_path / "negative.tiff")
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(ImageError, match="floating-point"):
        load_image(tmp_path / "f.tiff")


def test_transparency_is_composited_on_black(tmp_path):
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[..., 3] = 0
    rgba[0, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    got = pixels(tmp_path / "rgba.png")
    assert (got[0] == 200).all()
    assert (got[1:] == 0).all()


def test_a_palette_is_looked_up(tmp_path):
    indices = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    indices.putpalette([10, 20, 30, 240, 230, 220])
    indices.save(tmp_path / "p.png")
    np.testing.assert_array_equal(pixels(tmp_path / "p.png")[0], [[10, 20, 30], [240, 230, 220]])
    indices.save(tmp_path / "clear.png", transparency=1)
    np.testing.assert_array_equal(pixels(tmp_path / "clear.png")[0], [[10, 20, 30], [0, 0, 0]])


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_is_shown_in_its_greys(tmp_path, suffix):
    grey = (RAMP * 255).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(grey).convert("RGB").convert("CMYK").save(tmp_path / f"cmyk.{suffix}")
    with Image.open(tmp_path / f"cmyk.{suffix}") as file:
        assert file.mode == "CMYK"
    np.testing.assert_allclose(pixels(tmp_path / f"cmyk.{suffix}"), np.stack([grey] * 3, -1), atol=4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_orientation_is_applied(tmp_path, dtype):
    marked = np.zeros((4, 6), dtype)
    marked[0, 0] = np.iinfo(dtype).max
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: turn a quarter clockwise to view
    Image.fromarray(marked).save(tmp_path / "turned.png", exif=exif)
    got = pixels(tmp_path / "turned.png")
    assert got.shape == (6, 4, 3)
    assert got[0, 3, 0] == 255
    assert got.sum() == 3 * 255


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_truncated_file_is_never_loaded(tmp_path, monkeypatch, suffix, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # as another library may leave it
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    path = tmp_path / f"film.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match="truncated") as caught:
        load_image(path)
    assert caught.value.path == path


def test_missing_empty_foreign_and_damaged_files_say_why(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"gone\.dcm: no such file"):
        load_image(tmp_path / "gone.dcm")
    for name in ("empty.png", "empty.dcm"):
        (tmp_path / name).touch()
        with pytest.raises(ImageError, match=r"the file is empty \(0 bytes\)"):
            load_image(tmp_path / name)
    (tmp_path / "page.png").write_text("<html>404</html>")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "good.png")
    damaged = bytearray((tmp_path / "good.png").read_bytes())
    damaged[20] ^= 0xFF  # the header's checksum no longer fits
    (tmp_path / "damaged.png").write_bytes(damaged)
    for name in ("page.png", "damaged.png", "."):
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / name)
        assert caught.value.why


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM", "WEBP", "ICO"])
def test_only_formats_of_films_are_opened_whatever_the_name(tmp_path, kind):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png", kind)
    with pytest.raises(ImageError, match=r"x\.png: cannot identify it as PNG, JPEG, TIFF, BMP or DICOM$"):
        load_image(tmp_path / "x.png")
    rows = pd.DataFrame({"study_id": ["s"], "path": ["x.png"]})
    assert formats(Manifest(rows, {}, tmp_path), 0) == {"drawn": 1, "unreadable": 1, "formats": {}}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("side", "said"), [(60_000, r"3600000000 pixels\) ex"), (9_999, "9999 x 9999 pixels")])
def test_a_header_that_claims_too_many_pixels_is_refused(tmp_path, side, said):
    Image.new("L", (9, 9)).save(path := tmp_path / "x.bmp")
    path.write_bytes(path.read_bytes()[:18] + 2 * side.to_bytes(4, "little") + path.read_bytes()[26:])
    with pytest.raises(ImageError, match=said):
        load_image(path)


def test_the_error_crosses_a_process_border(tmp_path):
    error = pickle.loads(pickle.dumps(ImageError(tmp_path, "why")))
    assert (error.path, error.why) == (tmp_path, "why")
