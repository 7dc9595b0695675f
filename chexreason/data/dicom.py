"""DICOM radiographs as 8-bit grey images, by their own window or look-up table (needs pydicom, an extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_PIXELS = 89_000_000  # a film of 43 x 35 cm has 60 million at 0.05 mm; Pillow warns from 89,478,485 on
TOO_MANY = f"pixels, more than the {MAX_PIXELS:,} of a film: damaged, or too large"
BIT_DEPTHS = (8, 10, 12, 14, 16)  # of detectors; a 12-bit film is commonly stored in 16 bits
Pixels = npt.NDArray[np.floating]


def load_dicom(path: Path) -> Image.Image:
    """The radiograph at ``path`` as 8-bit grey, white for dense also where it is stored as MONOCHROME1.

    Stored values go through the modality transform, then the first VOI look-up table or window; without one, the bit
    depth is scaled to 0..255. Raises ValueError when pydicom is not installed, the file is no DICOM, has no pixels,
    several frames, colours, too many pixels or more than 16 bits. Source: DICOM PS3.3, C.7.6.3.1.2, C.11.1 and C.11.2.
    """
    try:
        import pydicom
    except ImportError:
        raise ValueError("this is a DICOM file, which needs pydicom: pip install 'chexreason[dicom]'") from None
    try:
        if pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99":
            raise ValueError("deflated DICOM, which unpacks to any size: write it anew, e.g. by dcmconv +te")
        dataset = pydicom.dcmread(path)  # without force=True: another format is refused
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


def white_level(high: int) -> int:
    """The level shown as white: the end of the smallest usual bit depth that holds ``high``, or ``high`` itself."""
    return next((2**bits - 1 for bits in BIT_DEPTHS if high < 2**bits), high)


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
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        return window(values.astype(np.float64), _first(dataset.WindowCenter), _first(dataset.WindowWidth), function)
    if dataset.get("ModalityLUTSequence"):
        return values / (2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1.0)
    # Rescaling moves and stretches the whole range, so only the sign of its slope is seen.
    whole = _full_range(stored, int(dataset.BitsStored), signed=dataset.PixelRepresentation == 1)
    return whole if float(dataset.get("RescaleSlope") or 1.0) > 0.0 else 1.0 - whole


def _full_range(stored: npt.NDArray[np.integer], bits: int, signed: bool) -> Pixels:
    """``stored`` [H, W] over the range of its bits, as 0..1; a file of 16 bits often holds fewer."""
    if signed:
        return (stored.astype(np.float64) + 2.0 ** (bits - 1)) / (2.0**bits - 1.0)
    white = white_level(int(stored.max())) if bits == 16 else 2**bits - 1
    return np.minimum(stored / float(white), 1.0)


def _first(value: Any) -> float:
    """The first of several alternative windows, or the only one."""
    return float(value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value)
