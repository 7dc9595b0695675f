"""DICOM radiographs: shown as the file says, and refused where it is no single grey film."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexreason.data.dicom import window
from chexreason.data.image import ImageError, load_image
from tests.support.hospitals import film

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
GREY = RAMP * 255


def lut(data: list[int], first: int, bits: int, **elements):
    """A sequence of one look-up table over the values from ``first``."""
    import pydicom

    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(data), first, bits])
    item.add_new("LUTData", "US", data)
    for name, value in elements.items():
        setattr(item, name, value)
    return [item]


def grey(path: Path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)[..., 0].astype(float)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bit_depths_fill_the_greys(tmp_path, bits):
    pixels = (RAMP * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    np.testing.assert_allclose(grey(film(tmp_path / "x.dcm", pixels, bits)), GREY, atol=1)
    inverted = grey(film(tmp_path / "y.dcm", pixels, bits, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(inverted, 255 - GREY, atol=1)


SIGNED = (RAMP * 4095 - 2048).astype(np.int16)
PADDED = np.where(RAMP < 0.2, 0, (RAMP - 13 / 63) * 255 / (50 / 63))
DARK = (RAMP * 4095).astype(np.uint16)


@pytest.mark.parametrize(
    ("pixels", "bits", "elements", "expected"),
    [
        (DARK, 16, {}, GREY),  # twelve bits in a file that claims sixteen are not dark
        (DARK // 2, 12, {}, GREY),  # whatever the exposure
        ((RAMP * 200).astype(np.uint8), 8, {}, GREY * 200 / 255),  # 8 bits are shown as they are
        ((RAMP * 200).astype(np.uint8), 8, {"RescaleSlope": "-1"}, 255 - GREY * 200 / 255),
        (SIGNED, 16, {}, GREY),  # twelve bits in a file that claims sixteen
        (SIGNED, 12, {}, GREY),
        (np.where(RAMP < 0.2, -32_768, SIGNED).astype(np.int16), 16, {"PixelPaddingValue": -32_768}, PADDED),
        (SIGNED, 12, {"RescaleSlope": "2", "RescaleIntercept": "5000"}, GREY),
        (SIGNED, 12, {"RescaleSlope": "-1", "RescaleIntercept": "0"}, 255 - GREY),
    ],
)
def test_values_are_scaled_by_the_detector_and_the_slope(tmp_path, pixels, bits, elements, expected):
    np.testing.assert_allclose(grey(film(tmp_path / "x.dcm", pixels, bits, **elements)), expected, atol=1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_first_window_is_applied_to_rescaled_values(tmp_path, photometric):
    pixels = np.array([[0, 900, 1000, 1100, 4000]], np.uint16)
    rescale = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "PhotometricInterpretation": photometric}
    of_1000 = {"WindowCenter": ["1000.5", "0"], "WindowWidth": ["401", "1"]}  # of values 800, 1000, 1200
    path = film(tmp_path / "x.dcm", pixels, 12, **rescale, **of_1000)
    expected = np.array([[0, 0, 127.5, 255, 255]])
    np.testing.assert_allclose(grey(path), expected if photometric == "MONOCHROME2" else 255 - expected, atol=0.6)


def test_a_look_up_table_goes_before_a_window(tmp_path):
    pixels = np.array([[0, 1, 2, 3]], np.uint16)
    table = lut([0, 4095, 1024, 2048], 0, 12)
    path = film(tmp_path / "x.dcm", pixels, 12, VOILUTSequence=table, WindowCenter="1", WindowWidth="2")
    np.testing.assert_allclose(grey(path), np.array([[0, 1, 1024 / 4095, 2048 / 4095]]) * 255, atol=0.6)
    modality = lut([255, 0, 100, 50], 0, 8, ModalityLUTType="US")
    np.testing.assert_allclose(
        grey(film(tmp_path / "y.dcm", pixels, 12, ModalityLUTSequence=modality)), [[255, 0, 100, 50]]
    )


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom(function):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels import apply_windowing

    values = np.arange(4096, dtype=np.uint16)[None]
    dataset = pydicom.Dataset()
    dataset.PhotometricInterpretation, dataset.PixelRepresentation, dataset.BitsStored = "MONOCHROME2", 0, 12
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 1500, 800, function
    expected = apply_windowing(values, dataset) / 4095
    np.testing.assert_allclose(window(values.astype(float), 1500, 800, function), expected, atol=1e-12)


def test_windows_at_the_edge_of_the_standard():
    assert window(np.array([9.4, 9.6]), 10, 1).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"width 0\.5 is not allowed .* LINEAR"):
        window(np.zeros(1), 0, 0.5)
    with pytest.raises(ValueError, match="width 0 is not allowed"):
        window(np.zeros(1), 0, 0, "SIGMOID")
    with pytest.raises(ValueError, match="unknown VOI LUT function 'CUBIC'"):
        window(np.zeros(1), 0, 2, "CUBIC")


def test_the_signature_counts_not_the_name(tmp_path):
    for name in ("film", "film.DCM", "film.dicom", "film.png"):
        np.testing.assert_allclose(grey(film(tmp_path / name, DARK)), GREY, atol=1)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "not.png")
    (tmp_path / "not.png").rename(tmp_path / "not.dcm")
    with pytest.raises(ImageError, match=r"named \.dcm but without DICOM's signature"):
        load_image(tmp_path / "not.dcm")


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfFrames": "2", "Rows": 4}, "2 frames; a radiograph has one"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric interpretation PALETTE COLOR"),
        ({"BitsStored": 1}, "1 bits stored; expected 8 to 16"),
        ({"WindowCenter": "10", "WindowWidth": "0"}, r"window width 0\.0 is not allowed"),
        ({"PixelData": b"\0" * 20}, r"(?i)pixel data"),
        ({"syntax": "1.2.840.10008.1.2.1.99"}, "deflated DICOM, which unpacks to any size"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000 pixels, more than the 89,000,000 of a film"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_grey_film_says_why(tmp_path, elements, reason):
    path = film(tmp_path / "x.dcm", DARK, **elements)
    with pytest.raises(ImageError, match=reason):
        load_image(path)


def test_dicom_without_pixels_or_cut_off_says_why(tmp_path):
    path = film(tmp_path / "x.dcm", DARK)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ImageError):
        load_image(path)
    path.write_bytes(whole[: whole.index(b"\xe0\x7f\x10\x00")])  # up to the pixels' element
    with pytest.raises(ImageError, match="without 8-16 bit pixels"):
        load_image(path)


def test_without_pydicom_the_way_out_is_named(tmp_path, monkeypatch):
    (tmp_path / "film").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)  # its import fails
    with pytest.raises(ImageError, match=r"pip install 'chexreason\[dicom\]'"):
        load_image(tmp_path / "film")
