"""DICOM radiographs as 8-bit grey images, by their own window or look-up table (needs pydicom, an extra)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

OUTLIERS, MARGIN = 1.0, 0.25  # percent of the pixels at either end; of the distance between these two ends
MAX_PIXELS = 89_000_000  # a film of 43 x 35 cm has 60 million at 0.05 mm; Pillow warns from 89,478,485 on
DEFLATED = b"1.2.840.10008.1.2.1.99"
TOO_MANY = f"pixels, more than the {MAX_PIXELS:,} of a film: damaged, or too large"
Pixels = npt.NDArray[np.floating]


def load_dicom(path: Path, data: bytes) -> Image.Image:
    """The DICOM file ``data`` of name ``path`` as 8-bit grey, white for dense also where it is stored as MONOCHROME1.

    Stored values go through the modality transform, then the first VOI look-up table or window; without one they are
    ``spread``, as those of any other file; 8 bits are shown as they are. Raises ValueError when pydicom is not
    installed, the file is no DICOM, has no pixels, several frames, colours, too many pixels or more than 16 bits.
    Source: DICOM PS3.3, C.7.6.3.1.2, C.11.1 and C.11.2.
    """
    try:
        import pydicom
    except ImportError:
        raise ValueError("this is a DICOM file, which needs pydicom: pip install 'chexreason[dicom]'") from None
    try:
        if DEFLATED in data[: 2**16]:  # its header names it; reading it would unpack it
            raise ValueError("deflated DICOM, which unpacks to any size: write it anew, e.g. by dcmconv +te")
        dataset = pydicom.dcmread(io.BytesIO(data))  # without force=True: another format is refused
    except pydicom.errors.InvalidDicomError:
        raise ValueError(f"named {path.suffix} but without DICOM's signature: another format, or damaged") from None
    _refuse(dataset)
    shown = _shown(dataset)  # [H, W] in 0..1
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1.0 - shown
    return Image.fromarray(np.rint(shown * 255.0).astype(np.uint8))


def window(values: Pixels, center: float, width: float, function: str = "LINEAR") -> Pixels:
    """``values`` [H, W] mapped to 0..1 by a window; raises ValueError on a width or function the standard forbids.

    Source: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3.
    """
    if width < 1.0 if function == "LINEAR" else width <= 0.0:
        raise ValueError(f"window width {width} is not allowed for the VOI LUT function {function}")
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if function != "LINEAR":
        raise ValueError(f"unknown VOI LUT function '{function}'; known: LINEAR, LINEAR_EXACT, SIGMOID")
    if width == 1.0:  # a ramp of length 0 is a threshold
        return np.where(values > center - 0.5, 1.0, 0.0)
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def spread(values: npt.NDArray[Any]) -> Pixels:
    """``values`` [H, W] over 0..1: the darkest level is black and the brightest white, whatever the detector's bits.

    Levels beyond the 1st or 99th percentile by more than a quarter of the distance between the two are outliers and are
    clipped: a hot pixel makes no film dark. Whole numbers that span fewer than 255 levels stay grey levels of 8 bits.
    Raises ValueError on NaN or infinity.
    """
    if not np.isfinite(values).all():
        raise ValueError("its pixels hold NaN or infinity")
    low = float(np.percentile(values, OUTLIERS, method="higher"))
    high = float(np.percentile(values, 100.0 - OUTLIERS, method="lower"))
    margin = MARGIN * max(high - low, 0.0)
    black, white = max(float(values.min()), low - margin), min(float(values.max()), high + margin)
    whole = np.array_equal(values, np.rint(values))
    if whole and black >= 0.0 and white <= 255.0:
        black = 0.0
    width = max(white - black, 255.0 if whole else np.finfo(np.float64).tiny)
    return np.clip((values.astype(np.float64) - black) / width, 0.0, 1.0)


def _refuse(dataset: Any) -> None:
    """Raises ValueError where ``dataset`` is no greyscale radiograph of one frame."""
    if "PixelData" not in dataset:
        raise ValueError(f"DICOM without 8-16 bit pixels (SOP class {dataset.get('SOPClassUID', 'unknown')})")
    width, height = int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)
    if width * height > MAX_PIXELS:  # memory is given for what a header claims
        raise ValueError(f"{width} x {height} {TOO_MANY}")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ValueError(f"DICOM with {frames} frames; a radiograph has one: export the frame to use")
    colours = dataset.get("PhotometricInterpretation", "unknown")
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"DICOM with photometric interpretation {colours}; expected MONOCHROME1 or MONOCHROME2")
    if not 8 <= int(dataset.BitsStored) <= 16:
        raise ValueError(f"DICOM with {dataset.BitsStored} bits stored; expected 8 to 16")


def _shown(dataset: Any) -> Pixels:
    """The pixels [H, W] in 0..1, before any inversion."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    stored = dataset.pixel_array  # [H, W]
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return np.clip(apply_voi(values, dataset) / (2.0**bits - 1.0), 0.0, 1.0)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        center, width = (float(np.ravel(given)[0]) for given in (dataset.WindowCenter, dataset.WindowWidth))
        return window(values.astype(np.float64), center, width, str(dataset.get("VOILUTFunction") or "LINEAR").upper())
    if dataset.get("ModalityLUTSequence"):
        return values / (2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1.0)
    if dataset.BitsStored == 8 and dataset.PixelRepresentation == 0:
        # Rescaling moves and stretches the whole range, so only the sign of its slope is seen.
        return stored / 255.0 if float(dataset.get("RescaleSlope") or 1.0) > 0.0 else 1.0 - stored / 255.0
    film = stored != dataset.get("PixelPaddingValue")  # what was no film is no darker and no brighter than the film
    return spread(np.clip(values, values[film].min(), values[film].max()) if film.any() else values)
