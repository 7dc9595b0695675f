"""Signs between lung and chest wall, and medical devices."""

from __future__ import annotations

import numpy as np

from chexreason.phantom.fields import Field, Stroke, bump, cloud, curve, ramp, strokes
from chexreason.phantom.thorax import Thorax, signed_sides
from chexreason.types import Sign


def effusion(thorax: Thorax, sign: Sign) -> Field:
    """Fluid opacity [S, S] with a meniscus that climbs the lateral wall; small ones only blunt the angle."""
    out = np.zeros_like(thorax.lung)
    for side in signed_sides(sign.side):
        height = 0.20 + 0.72 * sign.severity
        bottom = thorax.dome[side] + 0.27
        level = bottom - height * (0.60 + 0.40 * np.clip(thorax.a / thorax.width, 0.0, 1.0) ** 3)
        out = np.maximum(out, 0.93 * ramp(thorax.v - level, 0.07) * thorax.half[side])
    return out * thorax.lung


def pneumothorax(thorax: Thorax, sign: Sign) -> tuple[Field, Field]:
    """Free air [S, S] along apex and lateral wall, and the visceral line that bounds it."""
    air, line = np.zeros_like(thorax.lung), np.zeros_like(thorax.lung)
    for side in signed_sides(sign.side):
        size = 0.07 + 0.30 * sign.severity
        wall = np.maximum(thorax.depth * (1.0 + 0.45 * (thorax.v + 0.2)), 0.0)
        cap = np.maximum(0.70 * (thorax.v - thorax.top), 0.001)
        inwards = wall * cap / (0.35 * wall + cap)  # the smaller of both, rounded where they meet
        air = np.maximum(air, ramp(size - inwards, 0.02) * thorax.half[side])
        line = np.maximum(line, bump(inwards - size, 0.016) * thorax.half[side])
    return air * thorax.lung, line * thorax.lung


def thickening(thorax: Thorax, sign: Sign, rng: np.random.Generator) -> tuple[Field, Field]:
    """Thickened pleura along the wall or over the apex (opacity), some with calcified plaques (added density)."""
    soft, lime = np.zeros_like(thorax.lung), np.zeros_like(thorax.lung)
    ragged = cloud(rng, thorax.size, 14)
    for side in signed_sides(sign.side):
        thick = 0.045 + 0.075 * sign.severity
        apical = rng.random() < 0.25
        centre = float(rng.uniform(-0.25, 0.15))
        extent = 0.28 + 0.22 * sign.severity
        profile = np.clip(1.5 * (1.0 - np.abs(thorax.v - centre) / extent), 0.0, 1.0)
        wall = thick * profile * (1.0 + 0.35 * ragged) - thorax.depth
        cap = 1.4 * thick * (1.0 + 0.3 * ragged) - (thorax.v - thorax.top - 0.35 * (thorax.a - 0.3) ** 2)
        rind = ramp(cap if apical else wall, 0.03) * thorax.half[side]
        soft = np.maximum(soft, (0.62 + 0.2 * sign.severity) * rind)
        if rng.random() < 0.45:
            lime = np.maximum(lime, rind * ramp(ragged - 0.2, 0.5))
    return soft * ramp(thorax.lung - 0.05, 0.2), lime * thorax.lung


def devices(thorax: Thorax, sign: Sign, rng: np.random.Generator) -> Field:
    """Tubes, lines, pacemaker and ECG leads as bright objects [S, S]; their number grows with severity."""
    kinds = ["tube", "line", "pacemaker", "leads", "feeding", "wires"]
    chosen = rng.choice(kinds, size=1 + int(sign.severity * 2.6), replace=False, p=(0.2, 0.26, 0.2, 0.16, 0.1, 0.08))
    lines: list[Stroke] = []
    discs: list[tuple[float, float, float, float]] = []
    for kind in chosen:
        more, dots = _device(str(kind), thorax, rng)
        lines += [(curve(points), width, value) for points, width, value in more]
        discs += dots
    return strokes(thorax.size, lines, discs)


def _device(
    kind: str, thorax: Thorax, rng: np.random.Generator
) -> tuple[list[Stroke], list[tuple[float, float, float, float]]]:
    """Strokes and discs of one device."""
    mid, hilum, top = thorax.mid, thorax.hilum, thorax.top
    wobble = rng.normal(0.0, 0.02, 8).tolist()
    if kind == "tube":
        points = [(mid + 0.01 + wobble[0], -1.1), (mid + wobble[1] / 2, top), (mid - 0.01, hilum - 0.10 + wobble[2])]
        return [(points, 0.030, 0.75)], []
    if kind == "feeding":
        points = [(mid + wobble[0], -1.1), (mid + 0.02, hilum), (mid + 0.04, 0.3), (mid + 0.30, thorax.dome[1] + 0.2)]
        return [(points, 0.022, 0.8)], []
    if kind == "line":
        side = -1 if rng.random() < 0.7 else 1
        start = [(mid + side * 0.26, -1.1), (mid + side * 0.22, top + 0.02)]
        if rng.random() < 0.4:
            start = [(mid + side * 0.75, top + 0.25 + wobble[3]), (mid + side * 0.45, top + 0.16)]
        return [([*start, (mid - 0.09, hilum - 0.2), (mid - 0.10, hilum + 0.08 + wobble[4])], 0.020, 0.85)], []
    if kind == "pacemaker":
        x, v = mid + 0.50 + wobble[0], top + 0.28 + wobble[1]
        can = [(x - 0.05, v), (x + 0.05, v + 0.01)]
        lead = [(x - 0.06, v - 0.05), (mid + 0.22, top + 0.2), (mid - 0.09, hilum - 0.05), (mid - 0.07, 0.18)]
        tip = [*lead, (mid + 0.22, thorax.dome[1] - 0.10)]
        box: list[Stroke] = [(can, 0.15, 1.0), (tip, 0.022, 0.95)]
        return box, [(x - 0.06, v, 0.075, 1.0), (x + 0.06, v + 0.01, 0.075, 1.0)]
    if kind == "wires":
        loops = np.linspace(hilum - 0.25, thorax.dome[1] - 0.1, 5)
        knots = [[(mid - 0.03, v), (mid + 0.03, v + 0.02), (mid - 0.02, v + 0.03)] for v in loops.tolist()]
        return [(knot, 0.020, 0.95) for knot in knots], []
    spots = [(mid - 0.55 + wobble[0], -0.35), (mid + 0.55 + wobble[1], -0.38), (mid + 0.60 + wobble[2], 0.30)]
    cables: list[Stroke] = [
        ([(x, v), (0.5 * x + wobble[5], 0.5 * (v + 1)), (0.3 + wobble[6], 1.05)], 0.016, 0.7) for x, v in spots
    ]
    return cables, [(x, v, 0.038, 0.9) for x, v in spots]
