"""Signs inside the lung. Each returns an opacity [S, S] in 0..1: how far the lung is filled towards water density."""

from __future__ import annotations

import numpy as np

from chexreason.phantom.fields import Field, Stroke, bump, cloud, ramp, strokes
from chexreason.phantom.thorax import Thorax, signed_sides
from chexreason.types import Sign


def _distance(thorax: Thorax, side: int, a: float, v: float, ra: float, rv: float) -> Field:
    """Elliptic distance [S, S] from a point on ``side``; 1 on the ellipse."""
    return np.sqrt(((side * (thorax.x - np.float32(thorax.mid)) - a) / ra) ** 2 + ((thorax.v - v) / rv) ** 2)


def consolidation(thorax: Thorax, sign: Sign, rng: np.random.Generator) -> Field:
    """Dense lobar filling with a sharp fissure and dark air bronchograms."""
    out = np.zeros_like(thorax.lung)
    for side in signed_sides(sign.side):
        upper = rng.random() < 0.4
        fissure = thorax.hilum + (0.02 if upper else 0.05)
        reach = 0.26 + 0.20 * sign.severity
        centre = fissure - 0.16 if upper else fissure + 0.22
        shape = 1.0 - _distance(thorax, side, 0.36, centre, reach, reach) - 0.12 * cloud(rng, thorax.size, 7)
        edge = fissure - thorax.v if upper else thorax.v - fissure
        edge = edge + np.float32(0.25 if upper else -0.25) * (thorax.a - 0.4)
        filled = ramp(shape, 0.28) * ramp(edge, 0.03) * thorax.half[side]
        out = np.maximum(
            out, (0.50 + 0.35 * sign.severity) * filled * (1.0 - 0.6 * _bronchogram(thorax, side, upper, rng))
        )
    return out * thorax.lung


def _bronchogram(thorax: Thorax, side: int, upper: bool, rng: np.random.Generator) -> Field:
    """Branching air-filled airways [S, S] from the hilum into the lobe, 0..1."""
    lines: list[Stroke] = []
    for angle in rng.normal(0.0, 0.12, 4) + np.array([-0.9, -0.5, -0.15, 0.2] if upper else [0.1, 0.45, 0.8, 1.15]):
        cos, sin = np.cos(angle), np.sin(angle)
        stem = [(0.14 + r * cos, thorax.hilum + r * sin) for r in (0.0, 0.2, 0.42)]
        twig = [stem[1], (stem[1][0] + 0.14 * cos - 0.06 * sin, stem[1][1] + 0.14 * sin + 0.06 * cos)]
        lines += [
            ([thorax.spot(side, *p) for p in stem], 0.028, 0.9),
            ([thorax.spot(side, *p) for p in twig], 0.018, 0.8),
        ]
    return strokes(thorax.size, lines)


def pneumonia(thorax: Thorax, sign: Sign, rng: np.random.Generator) -> Field:
    """Several patchy, ill-defined, mottled areas."""
    mottle = np.clip(0.55 + 0.55 * cloud(rng, thorax.size, 26), 0.0, 1.0)
    out = np.zeros_like(thorax.lung)
    for side in signed_sides(sign.side):
        for _ in range(2 + int(3 * sign.severity)):
            centre = (float(rng.uniform(0.28, 0.58)), float(rng.uniform(thorax.hilum - 0.2, thorax.dome[side] - 0.08)))
            radius = float(rng.uniform(0.13, 0.19)) + 0.08 * sign.severity
            patch = np.clip(1.35 - _distance(thorax, side, *centre, radius, radius * 0.9), 0.0, 1.0)
            out = np.maximum(out, patch * thorax.half[side])
    opacity: Field = (0.48 + 0.42 * sign.severity) * out * mottle * thorax.lung
    return opacity


def haze(thorax: Thorax, sign: Sign, rng: np.random.Generator) -> Field:
    """One smooth ground-glass area without any more specific feature."""
    out = np.zeros_like(thorax.lung)
    for side in signed_sides(sign.side):
        centre = (float(rng.uniform(0.32, 0.48)), float(rng.uniform(-0.35, thorax.dome[side] - 0.15)))
        reach = float(rng.uniform(0.24, 0.32)) + 0.12 * sign.severity
        out = np.maximum(
            out, np.clip(1.25 - _distance(thorax, side, *centre, reach, reach), 0.0, 1.0) * thorax.half[side]
        )
    return (0.22 + 0.33 * sign.severity) * out * thorax.lung


def edema(thorax: Thorax, sign: Sign, rng: np.random.Generator) -> Field:
    """Perihilar bat-wing haze on both sides, denser below, with Kerley B lines at the lateral bases."""
    reach = np.sqrt(((thorax.a - 0.22) / 0.34) ** 2 + ((thorax.v - thorax.hilum - 0.08) / 0.46) ** 2)
    wing = np.clip(1.45 - reach, 0.0, 1.0) * (0.85 + 0.15 * cloud(rng, thorax.size, 16))
    kerley = bump((thorax.v - 0.3 * thorax.a) % np.float32(0.062) - 0.031, 0.015) * ramp(0.15 - thorax.depth, 0.05)
    kerley = kerley * ramp(thorax.v - thorax.hilum - 0.12, 0.1)
    return np.maximum((0.17 + 0.45 * sign.severity) * wing, (0.12 + 0.25 * sign.severity) * kerley) * thorax.lung


def atelectasis(thorax: Thorax, sign: Sign, rng: np.random.Generator) -> Field:
    """Plate-like bands above the dome, or from moderate severity a collapsed lower lobe against the spine."""
    out = np.zeros_like(thorax.lung)
    for side in signed_sides(sign.side):
        if sign.severity > 0.5 and rng.random() < 0.5:
            wedge = 0.22 + (0.20 + 0.26 * sign.severity) * (thorax.v - thorax.hilum) / 0.5
            mask = ramp(wedge - thorax.a, 0.035) * ramp(thorax.v - thorax.hilum, 0.10)
            out = np.maximum(out, (0.55 + 0.3 * sign.severity) * mask * thorax.half[side])
            continue
        for i in range(1 + int(2.4 * sign.severity)):
            height = thorax.dome[side] - 0.09 - 0.12 * i - float(rng.uniform(0.0, 0.05))
            slope = float(rng.uniform(-0.35, 0.25))
            across = thorax.v - height - slope * (thorax.a - 0.4)
            length = 0.17 + 0.12 * sign.severity
            along = ramp(length - np.abs(thorax.a - float(rng.uniform(0.36, 0.50))), 0.06)
            band = bump(across, 0.035 + 0.03 * sign.severity) * along
            out = np.maximum(out, (0.60 + 0.35 * sign.severity) * band * thorax.half[side])
    return out * thorax.lung


def lesion(thorax: Thorax, sign: Sign, rng: np.random.Generator) -> Field:
    """One to three rounded nodules or a mass, well defined with a lobulated rim."""
    out = np.zeros_like(thorax.lung)
    for side in signed_sides(sign.side):
        for i in range(1 + int(rng.integers(3) * (sign.severity > 0.3))):
            centre = (float(rng.uniform(0.30, 0.56)), float(rng.uniform(thorax.top + 0.25, thorax.dome[side] - 0.10)))
            radius = (0.052 + 0.11 * sign.severity) * (1.0 if i == 0 else float(rng.uniform(0.5, 0.85)))
            across = _distance(thorax, side, *centre, radius, radius)
            turn = np.arctan2(thorax.v - centre[1], thorax.x - np.float32(thorax.mid + side * centre[0]))
            wave = np.sin(turn * 2.0 + float(rng.uniform(0, 6))) + np.sin(turn * 5.0 + float(rng.uniform(0, 6)))
            rim = 1.0 + 0.05 * wave
            out = np.maximum(out, ramp(rim - across, 0.35) * (0.62 + 0.22 * sign.severity))
    return out * thorax.lung
