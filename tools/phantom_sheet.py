"""Draw the contact sheet of both phantom hospitals.

Run it with `python -m tools.phantom_sheet --out sheet.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from chexreason.files import whole
from chexreason.phantom.institution import INSTITUTIONS, Institution
from chexreason.phantom.patient import PhantomStudy, sample_patient
from chexreason.phantom.render import render_film
from chexreason.types import Sign

# What each cell shows, in reading order: the normal chest first, then every other label once.
CASES: tuple[tuple[str, str, float], ...] = (
    ("No Finding", "", 0.0),
    ("Cardiomegaly", "", 0.7),
    ("Enlarged Cardiomediastinum", "", 0.6),
    ("Edema", "both", 0.8),
    ("Consolidation", "right", 0.8),
    ("Pneumonia", "right", 0.9),
    ("Lung Opacity", "left", 0.9),
    ("Atelectasis", "left", 0.7),
    ("Lung Lesion", "right", 0.5),
    ("Pleural Effusion", "right", 0.6),
    ("Pleural Other", "left", 0.9),
    ("Pneumothorax", "left", 0.6),
    ("Fracture", "right", 0.9),
    ("Support Devices", "", 0.9),
)
COLUMNS, CAPTION, MARGIN = 7, 20, 6


def contact_sheet(size: int = 192, seed: int = 6) -> Image.Image:
    """Every label once, the same patient at hospital A and right below it at hospital B."""
    cell, band = size + MARGIN, 2 * (size + MARGIN) + CAPTION
    n_bands = -(-len(CASES) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * cell + MARGIN, n_bands * band + MARGIN), 24)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, (label, side, severity) in enumerate(CASES):
        x, y = MARGIN + (i % COLUMNS) * cell, MARGIN + (i // COLUMNS) * band
        pen.text((x + 2, y), f"{label} ({side})" if side else label, fill=235, font=font)
        for row, (hospital, view) in enumerate((("a", "PA"), ("b", "AP"))):
            place = INSTITUTIONS[hospital]
            film = render_film(_study(place, view, label, side, severity, seed + i), place.rendering, size)
            sheet.paste(Image.fromarray(film), (x, y + CAPTION + row * cell))
            corner = (x + 3, y + CAPTION + row * cell + size - 17)
            pen.rectangle((corner, (corner[0] + 14, corner[1] + 14)), fill=24)
            pen.text((corner[0] + 3, corner[1] - 1), hospital.upper(), fill=235, font=font)
    return sheet


def _study(place: Institution, view: str, label: str, side: str, severity: float, seed: int) -> PhantomStudy:
    patient = sample_patient(np.random.default_rng(seed))
    findings = () if label == "No Finding" else (Sign(label, side, severity),)
    return PhantomStudy(seed, patient, findings, view, 60, patient.sex, place.name)


def main() -> None:
    """Write the sheet to ``--out``, whole or not at all."""
    parser = argparse.ArgumentParser(description="Contact sheet of the phantom hospitals, every sign once.")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--size", type=int, default=192, help="side of one film in pixels")
    parser.add_argument("--seed", type=int, default=6, help="first patient")
    args = parser.parse_args()
    with whole(args.out) as temporary:
        contact_sheet(args.size, args.seed).save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
