"""Charts as files: the same figures give the same bytes, as SVG and as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from chexreason.files import write_bytes

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "chexreason",  # element ids are salted at random otherwise
    "font.family": "DejaVu Sans",  # comes with matplotlib: the PNG does not depend on the machine's fonts
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
# Neither date nor version: files differ only where figures do.
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``<stem>.svg`` and ``<stem>.png`` (150 dpi, white); call it under ``STYLE``, which holds the salt."""
    paths = []
    for kind, metadata in _METADATA.items():
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        write_bytes(paths[-1], file.getvalue())
    return paths
