"""Radiograph files as 8-bit RGB images: one rule for more bits, and no damaged file is read in part."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from chexreason.data.dicom import MAX_PIXELS, TOO_MANY, load_dicom, spread
from chexreason.data.fingerprint import content_sha256

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # Pillow goes by the content: an EPS named .png would start Ghostscript
BICUBIC = Image.Resampling.BICUBIC
PIXELS = 2  # raise it whenever a file gives other pixels: what caches hold was made under another
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
DICOM_SUFFIXES = (".dcm", ".dicom")
DICOM_SIGNATURE, DICOM_SIGNATURE_AT = b"DICM", 128  # PS3.10, 7.1: a preamble of 128 bytes, then the prefix


class ImageError(OSError):
    """A radiograph that cannot be read; carries its ``path`` and ``why``."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"cannot read image {path}: {why}")
        self.path, self.why = path, why

    def __reduce__(self) -> tuple[type[ImageError], tuple[Path, str]]:
        return type(self), (self.path, self.why)  # crosses the process border of a data loader's worker


def load_image(path: Path, sha256: str = "") -> Image.Image:
    """The image at ``path`` as 8-bit RGB (see ``decode``), of the bytes that have this ``sha256`` where one is given.

    Raises ImageError when the file is missing, empty, damaged, truncated, no image, or another one than was prepared.
    """
    data = read_film(path)
    if sha256 and content_sha256(data) != sha256:
        raise ImageError(path, "its bytes are not those that were prepared: prepare its data set again")
    return decode(path, data)


def read_film(path: Path) -> bytes:
    """The bytes of the file at ``path``; raises ImageError where it is missing, empty or cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise ImageError(path, f"a link to {os.readlink(path)}: {why}" if path.is_symlink() else why) from error
    if not data:
        raise ImageError(path, "the file is empty (0 bytes)")
    return data


def decode(path: Path, data: bytes) -> Image.Image:
    """The image file ``data`` as 8-bit RGB, upright by its EXIF orientation; ``path`` is its name.

    Grey of more than 8 bits is ``spread``; transparency says nothing about a film and is left out (``info`` has a key
    "transparent" then); DICOM, by its name or its signature, uses its own window. Raises ImageError.
    """
    # Another library may have set this for the whole process; then a truncated film would load with a grey half.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        if data[DICOM_SIGNATURE_AT:132] == DICOM_SIGNATURE or path.suffix.lower() in DICOM_SUFFIXES:
            return load_dicom(path, data).convert("RGB")
        with opened(io.BytesIO(data)) as file:
            if (frames := getattr(file, "n_frames", 1)) > 1:
                raise ValueError(f"{file.format} with {frames} pages; a radiograph has one: export the page to use")
            tags = getattr(file, "tag_v2", {})
            bits = data[24] if file.format == "PNG" else max(tags.get(BITS_PER_SAMPLE, (8,)))
            file.load()
            image = _rgb(ImageOps.exif_transpose(file))
            wide = file.mode in WIDE_MODES
        if bits > 8 and not wide and np.percentile(image, 98) < 128:
            raise ValueError("16 bits a channel, of which 8 are read, and dark: save it as 16-bit grey")
        # Where white is zero, Pillow turns 8 bits alone.
        return ImageOps.invert(image) if wide and tags.get(PHOTOMETRIC) == 0 else image
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
    path: Path, side: int, kind: str = "JPEG", resample: int = BICUBIC, sha256: str = "", **options: int
) -> bytes:
    """The radiograph at ``path`` as a grey JPEG or PNG (``kind``) whose longer side has at most ``side`` pixels.

    Nothing but the pixels is passed on; ``options`` are those of the file format. Raises ImageError where the file
    cannot be read, or is not the one of ``sha256``.
    """
    image = load_image(path, sha256).convert("L")
    image.thumbnail((side, side), resample)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE_MODES:
        return Image.fromarray(np.rint(spread(np.asarray(image)) * 255.0).astype(np.uint8)).convert("RGB")
    if image.info.pop("transparency", None) is not None or image.mode.endswith(("A", "a")):
        image.info["transparent"] = True
    return image.convert("RGB")
