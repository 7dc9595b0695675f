"""Reading radiographs: every usual pixel format, and no damaged file taken for a good one."""

import pickle
import struct
import zlib
from itertools import product

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from chexreason.audit.sheet import formats
from chexreason.data.check import inspect_images
from chexreason.data.image import ImageError, load_image
from chexreason.data.leakage import find_leaks
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


HOT = np.where(RAMP[4, 4] == RAMP, 65_535, RAMP * 1000)  # a film of 10 bits with one pixel that is stuck


@pytest.mark.parametrize(
    ("wide", "expected"),
    [
        ((RAMP * 1023).astype(np.uint16), RAMP * 255),
        ((RAMP * 65_535).astype(np.uint16), RAMP * 255),
        ((RAMP * 1024).astype(np.uint16), RAMP * 255),  # one level more is no darker film
        ((RAMP * 3000 + 500).astype(np.uint16), RAMP * 255),  # whatever the exposure and the offset
        ((RAMP * 200).astype(np.uint16), RAMP * 200),  # levels of 8 bits
        ((RAMP * 1_000_000).astype(np.int32), RAMP * 255),
        ((RAMP * 4000 - 2000).astype(np.int32), RAMP * 255),
        (RAMP.astype(np.float32) * 0.3, RAMP * 255),
        (HOT.astype(np.uint16), np.where(HOT > 1000, 255, HOT / 1000 * 204.7)),
        (np.where(HOT > 1000, -32_768, HOT).astype(np.int32), np.where(HOT > 1000, 0, 50.3 + HOT / 1000 * 204.7)),
        (np.full((8, 8), 40_000, np.uint16), np.zeros((8, 8))),
        (np.full((8, 8), 0.25, np.float32), np.zeros((8, 8))),
        ((RAMP * 4 + 30_000).astype(np.uint16), RAMP * 4),  # noise is not stretched to a film
    ],
)
def test_more_than_8_bits_are_spread_by_one_rule(tmp_path, wide, expected):
    suffix = "png" if wide.dtype == np.uint16 else "tiff"
    Image.fromarray(wide).save(tmp_path / f"wide.{suffix}")
    np.testing.assert_allclose(pixels(tmp_path / f"wide.{suffix}")[..., 0], expected, atol=1)


def test_pixels_that_are_no_number_and_halves_of_16_bits_are_refused(tmp_path):
    Image.fromarray(np.where(RAMP == 1, np.nan, RAMP).astype(np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(ImageError, match="NaN or infinity"):
        load_image(tmp_path / "f.tiff")
    page = Image.fromarray(RAMP.astype(np.float32))
    page.save(tmp_path / "f.tiff", save_all=True, append_images=[page])
    with pytest.raises(ImageError, match="TIFF with 2 pages; a radiograph has one"):
        load_image(tmp_path / "f.tiff")
    for colours, kind, top in ((2, 4, 4095), (3, 2, 4095), (4, 6, 4095), (2, 4, 65_535)):  # Pillow reads the upper byte
        values = (RAMP * top).astype(">u2")
        values[4, 4] = 65_535 if colours == 3 else values[4, 4]  # a hot pixel makes no film bright
        rows = np.repeat(values[..., None], colours, -1).reshape(8, -1)
        header = struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)
        parts = {b"IHDR": header, b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)), b"IEND": b""}
        png = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts.items()]
        (tmp_path / "16.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png))
        if top < 65_535:
            with pytest.raises(ImageError, match="save it as 16-bit grey"):
                load_image(tmp_path / "16.png")
    np.testing.assert_allclose(pixels(tmp_path / "16.png")[..., 0], RAMP * 255, atol=1)


@pytest.mark.parametrize(
    ("photometric", "colours", "top", "expected"),
    [(0, 1, 4095, 255 - RAMP * 255), (1, 1, 4095, RAMP * 255), (2, 3, 65_535, RAMP * 255), (2, 3, 4095, None)],
)
def test_16_bits_of_tiff_are_read_by_what_its_tags_say(tmp_path, photometric, colours, top, expected):
    values = np.repeat((RAMP * top).astype("<u2")[..., None], colours, -1).tobytes()
    tags = {256: 8, 257: 8, 258: 16, 259: 1, 262: photometric, 273: 130, 277: colours, 278: 8, 279: len(values)}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    if colours == 3:
        entries = entries.replace(struct.pack("<HHII", 258, 3, 1, 16), struct.pack("<HHII", 258, 3, 3, 124))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries
    (tmp_path / "x.tiff").write_bytes(head.ljust(124, b"\0") + struct.pack("<3H", 16, 16, 16) + values)
    if expected is None:
        with pytest.raises(ImageError, match="save it as 16-bit grey"):
            load_image(tmp_path / "x.tiff")
    else:
        np.testing.assert_allclose(pixels(tmp_path / "x.tiff")[..., 0], expected, atol=1)


def test_transparency_is_left_out_and_the_guard_pairs_a_film_with_its_copies(tmp_path):
    noise = np.random.default_rng(0).integers(40, 220, (20, 20), dtype=np.uint8)
    film = Image.fromarray(noise).resize((160, 160), Image.Resampling.BICUBIC)
    grey = np.asarray(film).astype(np.float32)
    made = {f"{bits}.png": Image.fromarray((grey * (2**bits - 1) / 255).astype(np.uint16)) for bits in (10, 12, 16)}
    made |= {"float.tiff": Image.fromarray(grey / 255), "hot.png": made["12.png"].copy(), "film.png": film}
    made["hot.png"].putpixel((3, 3), 65_535)
    for mode, (name, alpha) in product(("RGBA", "LA"), {"0": 0, "90": 90, "mask": film.point([0, 255] * 128)}.items()):
        made[f"{mode}_{name}.png"] = film.convert(mode)
        made[f"{mode}_{name}.png"].putalpha(alpha)
    for name, image in made.items():
        image.save(tmp_path / name)
    film.save(tmp_path / "white.png", transparency=int(grey.max()))
    film.quantize(256).save(tmp_path / "palette.png", transparency=bytes(256))
    facts = {fact.path.stem: fact for fact in inspect_images(sorted(tmp_path.iterdir()))}
    film = facts.pop("film")
    assert sum(fact.transparent for fact in facts.values()) == 8
    for name, fact in facts.items():
        if fact.transparent and name != "palette":
            np.testing.assert_array_equal(pixels(fact.path), pixels(film.path), name)
        sides = (("sft", film), ("test", fact))
        rows = [{"patient_id": s, "study_id": s, "split": s, "sha256": f.sha256, "phash": f.phash} for s, f in sides]
        assert [leak.kind for leak in find_leaks({"one": pd.DataFrame(rows)})] == ["picture"], name


def test_a_palette_is_looked_up(tmp_path):
    indices = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    indices.putpalette([10, 20, 30, 240, 230, 220])
    indices.save(tmp_path / "p.png")
    indices.save(tmp_path / "clear.png", transparency=1)
    for name in ("p.png", "clear.png"):
        np.testing.assert_array_equal(pixels(tmp_path / name)[0], [[10, 20, 30], [240, 230, 220]])


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
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "damaged.png")
    damaged = bytearray((tmp_path / "damaged.png").read_bytes())
    damaged[20] ^= 0xFF  # the header's checksum no longer fits
    for name, data in {"empty.png": b"", "empty.dcm": b"", "page.png": b"<html>404", "damaged.png": damaged}.items():
        (tmp_path / name).write_bytes(data)
    missing, empty = r"gone\.\w+: no such file", r"the file is empty \(0 bytes\)"
    why = {"gone.png": missing, "gone.dcm": missing, "empty.png": empty, "empty.dcm": empty, ".": "Is a directory"}
    for name, said in (why | dict.fromkeys(("page.png", "damaged.png"), "cannot identify it as ")).items():
        with pytest.raises(ImageError, match=said) as caught:
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
