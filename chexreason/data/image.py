"""Radiograph files as 8-bit RGB images: nothing is clipped, and no damaged file is read in part."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from chexreason.data.dicom import MAX_PIXELS, TOO_MANY, load_dicom, white_level

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # Pillow goes by the content: an EPS named .png would start Ghostscript
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DICOM_SUFFIXES = (".dcm", ".dicom")
DICOM_SIGNATURE, DICOM_SIGNATURE_AT = b"DICM", 128  # PS3.10, 7.1: a preamble of 128 bytes, then the prefix


class ImageError(OSError):
    """A radiograph that cannot be read; carries its ``path`` and ``why``."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"cannot read image {path}: {why}")
        self.path, self.why = path, why

    def __reduce__(self) -> tuple[type[ImageError], tuple[Path, str]]:
        return type(self), (self.path, self.why)  # crosses the process border of a data loader's worker


def load_image(path: Path) -> Image.Image:
    """The image at ``path`` as 8-bit RGB, upright by its EXIF orientation.

    16-bit grey is scaled by the smallest usual bit depth that holds its maximum, so nothing is clipped to white;
    transparency is composited on black; DICOM, by its name or its signature, uses its own window. Raises
    ImageError when the file is missing, empty, damaged, truncated or no image.
    """
    # Another library may have set this for the whole process; then a truncated film would load with a grey half.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with open(path, "rb") as start:
            head = start.read(132)
        if not head:
            raise ValueError("the file is empty (0 bytes)")
        if _is_dicom(path, head):
            return load_dicom(path).convert("RGB")
        with opened(path) as file:
            file.load()
            return _rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        raise ImageError(path, "no such file") from None
    except Exception as error:  # decoders raise many types on damaged bytes: SyntaxError, struct.error, zlib.error
        raise ImageError(path, str(error) or type(error).__name__) from error


def opened(source: Path | io.BytesIO) -> Image.Image:
    """An image file whose header alone is read; raises ValueError where it is none of FORMATS, or too large."""
    try:
        image = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"cannot identify it as {', '.join(FORMATS)} or DICOM") from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} {TOO_MANY}")
    return image


def grey_file(
    path: Path, side: int, kind: str = "JPEG", resample: int = Image.Resampling.BICUBIC, **options: int
) -> bytes:
    """The radiograph at ``path`` as a grey JPEG or PNG (``kind``) whose longer side has at most ``side`` pixels.

    Nothing but the pixels is passed on; ``options`` are those of the file format. Raises ImageError where the file
    cannot be read.
    """
    image = load_image(path).convert("L")
    image.thumbnail((side, side), resample)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _is_dicom(path: Path, head: bytes) -> bool:
    """True where the file's first 132 bytes ``head`` carry DICOM's prefix, or its name claims so."""
    return head[DICOM_SIGNATURE_AT:] == DICOM_SIGNATURE or path.suffix.lower() in DICOM_SUFFIXES


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE_MODES:
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save the image with 8 or 16 bits")
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Scales unsigned ``pixels`` [H, W] to uint8 [H, W] by the bit depth they use; raises ValueError below 0."""
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0:
        raise ValueError(f"pixel values go down to {low}; expected unsigned grey levels")
    return np.rint(pixels * (255.0 / white_level(high))).astype(np.uint8)
