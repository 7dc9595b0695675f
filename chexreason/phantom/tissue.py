"""The normal picture: soft tissue, air, heart, vessels and bone of a healthy chest as optical density 0..1."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from chexreason.phantom.fields import Field, Stroke, bump, cloud, curve, ramp, strokes
from chexreason.phantom.patient import Patient
from chexreason.phantom.thorax import Thorax, signed_sides
from chexreason.types import Sign

AIR, LUNG, SOFT, WATER = 0.02, 0.24, 0.60, 0.82


def soft_tissue(thorax: Thorax, patient: Patient, view: str) -> Field:
    """Body [S, S] before the lungs are carved out: torso, shoulders, arms, neck; breasts in women."""
    a, v = thorax.a, thorax.v
    wall = thorax.width + 0.11 + 0.10 * patient.habitus
    shoulder = -0.86 + 0.40 * np.clip((a - 0.24) / 0.76, 0.0, 1.0) ** 1.4 - np.float32(0.6) * (a < 0.24)
    armpit = -0.15 + 1.1 * np.clip(a - wall, 0.0, 1.0) + (0.45 if view == "AP" else 0.0)
    body = ramp(np.minimum(v - shoulder, np.maximum(wall - a, armpit - v)), 0.05)
    thick = (0.47 + 0.10 * patient.habitus) + 0.15 * np.clip(1.0 - (a / wall) ** 2, 0.0, 1.0) + 0.05 * (v + 1.0)
    density: Field = AIR + body * (thick - AIR)
    density += 0.05 * bump(wall - 0.07 - a, 0.05) * (v > -0.3)  # muscle stripe of the lateral wall
    if patient.sex == "F":
        size = 0.25 + 0.09 * patient.habitus
        ring = 1.0 - np.sqrt(((a - 0.43) / (1.25 * size)) ** 2 + ((v - 0.20) / (1.1 * size)) ** 2)
        density += (0.05 + 0.05 * patient.habitus) * ramp(ring, 0.35) * (v > -0.25)
    return density


def carve_lungs(density: Field, thorax: Thorax, patient: Patient, texture: Field) -> Field:
    """Replace the tissue by aerated lung, denser towards base, hilum and in a thick chest."""
    base = LUNG + 0.05 * patient.habitus + 0.07 * (thorax.v + 0.2) + 0.10 * np.clip(0.4 - thorax.a, 0.0, 1.0)
    overlay = 0.25 * (density - SOFT)
    filled: Field = density + thorax.lung * (base + overlay + 0.018 * texture - density)
    return filled


def midline(density: Field, thorax: Thorax, patient: Patient, findings: Mapping[str, Sign], view: str) -> Field:
    """Add mediastinum, aortic knob, heart, spine, abdomen and stomach bubble; cut the trachea out."""
    x, v, a = thorax.x - np.float32(thorax.mid), thorax.v, thorax.a
    wide = findings.get("Enlarged Cardiomediastinum")
    swell = (0.07 + 0.17 * wide.severity) if wide is not None else 0.0
    swell += 0.02 if view == "AP" else 0.0
    rise = np.clip((v + 0.80) / 0.25, 0.0, 1.0) * np.clip((0.45 - v) / 0.5, 0.0, 1.0)
    band = 0.115 + 0.02 * np.clip(v + 0.2, 0.0, 1.0) + swell * rise + 0.09 * np.clip(-0.72 - v, 0.0, 1.0)
    core = ramp(band - a, 0.06)
    knob = 1.0 - np.sqrt((x - 0.085 - 0.6 * swell) ** 2 + (v - thorax.hilum + 0.17) ** 2) / np.float32(patient.knob)
    core = np.maximum(core, 0.95 * ramp(knob, 0.4))
    trunk = 1.0 - np.sqrt(((x - 0.075 - 0.5 * swell) / 0.135) ** 2 + ((v - thorax.hilum - 0.08) / 0.22) ** 2)
    core = np.maximum(core, ramp(trunk, 0.3))
    core = np.maximum(core, thorax.heart)
    density = density + 0.93 * core * (WATER - 0.06 + 0.06 * thorax.heart - density) * (v > -0.86)
    belly = ramp(v - thorax.floor, 0.03) * ramp(thorax.depth + 0.04, 0.06)
    density = density + belly * (WATER + 0.03 - density)
    shape = np.random.default_rng([patient.seed, 12]).uniform(-1.0, 1.0, 5).tolist()
    far = ((x - 0.38 - 0.10 * shape[0]) / (0.15 + 0.05 * shape[1])) ** 2
    bubble = 1.0 - np.sqrt(far + ((v - thorax.dome[1] - 0.17 - 0.06 * shape[2]) / (0.10 + 0.04 * shape[3])) ** 2)
    density = density - (0.14 + 0.14 * shape[4]) * ramp(bubble, 0.6) * belly
    spine = ramp(0.075 - a, 0.03)
    density = density + spine * (0.055 + 0.03 * np.sin(v * np.float32(2 * np.pi / 0.165)))
    bend = 0.02 * np.clip(v + 0.6, 0.0, 1.0)
    trachea = ramp(0.045 - np.abs(x + bend), 0.035) * ramp(thorax.hilum - 0.02 - v, 0.05)
    split = ramp(0.035 - np.abs(v - thorax.hilum - 0.75 * (a - 0.03)), 0.04) * ramp(0.17 - a, 0.08)
    return density - 0.15 * np.maximum(trachea, 0.5 * split)


def vessels(thorax: Thorax, patient: Patient, findings: Mapping[str, Sign]) -> Field:
    """Hilar arteries and veins [S, S], branching from both hila, 0..1; congested when there is edema."""
    wet = findings["Edema"].severity if "Edema" in findings else 0.0
    rng = np.random.default_rng([patient.seed, 11])
    lines: list[Stroke] = []
    discs = []
    for side in (1, -1):
        away = 0.14 + (0.03 if side > 0 else 0.0)
        spots = [(away - 0.02, -0.06), (away + 0.02, 0.02), (away + 0.03, 0.10), (away + 0.03, 0.17)]
        hila = thorax.hilum - 0.03 * side
        discs += [(*thorax.spot(side, a, hila + dv), 0.042 + 0.015 * wet, 0.55) for a, dv in spots]
        lines += _tree(rng, thorax, side, (away, hila), 1.0 + 0.7 * wet)
    return strokes(thorax.size, lines, discs) * thorax.lung


def _tree(
    rng: np.random.Generator, thorax: Thorax, side: int, hilum: tuple[float, float], calibre: float
) -> list[Stroke]:
    """Three generations of vessels of one lung; angles run from -pi/2 (up) over 0 (lateral) to pi/2 (down)."""
    angle = np.linspace(-1.25, 1.35, 7) + rng.normal(0.0, 0.16, 7)
    start = np.stack([hilum[0] + 0.03 * np.cos(angle), hilum[1] + 0.05 + 0.12 * np.sin(angle)], axis=-1)  # [N, 2]
    lines: list[Stroke] = []
    for generation in range(3):
        length = (0.17, 0.16, 0.15)[generation] * rng.uniform(0.75, 1.25, angle.size)
        bend = angle + rng.normal(0.0, 0.30, angle.size)
        middle = start + 0.5 * length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        end = middle + 0.5 * length[:, None] * np.stack([np.cos(bend), np.sin(bend)], axis=-1)
        points = np.stack([start, middle, end], axis=1)  # [N, 3, 2]
        points[..., 0] = thorax.mid + side * points[..., 0]
        width, value = calibre * (0.030, 0.020, 0.013)[generation], (0.70, 0.52, 0.36)[generation]
        lines += [(path, width, value) for path in points.tolist()]
        turn = rng.uniform(0.15, 0.55, (2, angle.size)) * np.array([[1.0], [-1.0]])
        start = np.concatenate([end, middle])
        angle = np.concatenate([bend + turn[0], bend + turn[1]])
    return lines


def skeleton(thorax: Thorax, patient: Patient, findings: Mapping[str, Sign], rng: np.random.Generator) -> Field:
    """Ribs, clavicles, scapulae and humeral heads as added density [S, S]; a fracture steps and gaps the ribs."""
    a, v = thorax.a, thorax.v
    arc = (a / thorax.width) ** 2
    back = v - 0.20 * (1 - arc) + 0.17 * arc
    front = v + 0.42 * (1.0 - a / thorax.width) - 0.05
    broken = findings.get("Fracture")
    site: Field | float = 0.0
    if broken is not None:
        back, site = _break_ribs(back, thorax, broken, rng)
    inside = ramp(thorax.depth + 0.045, 0.03) * ramp(a - 0.07, 0.05) * ramp(v - thorax.top + 0.03, 0.04)
    inside = inside * ramp(thorax.floor + 0.20 - v, 0.25)
    inside = inside * (0.22 + 0.78 * thorax.lung)  # heart and abdomen hide the ribs
    rear = _rib(back, patient.rib_pitch)
    bone = inside * (0.085 * rear * (1.0 + 0.5 * bump(thorax.depth, 0.10)) + site * np.clip(rear, 0.0, 1.2))
    bone = bone + inside * (0.035 * _rib(front, patient.rib_pitch * 1.05) * ramp(a - 0.25, 0.3))
    return bone + _girdle(thorax, patient)


def _rib(phase: Field, pitch: float) -> Field:
    """Rib profile across its course: a plateau with brighter cortical edges, 0..1.4."""
    wave = np.cos(phase * np.float32(2.0 * np.pi / pitch))
    return ramp(wave - 0.05, 0.7) + 0.45 * bump(wave - 0.22, 0.35)


def _break_ribs(back: Field, thorax: Thorax, broken: Sign, rng: np.random.Generator) -> tuple[Field, Field]:
    """Step the ribs at one to three lateral sites: shifted rib course, and gap, fragment edges, swelling as density."""
    site = np.zeros((thorax.size, thorax.size), np.float32)
    for side in signed_sides(broken.side):
        at = float(rng.uniform(0.62, 0.82)) * thorax.width
        low = float(rng.uniform(-0.30, 0.15))
        reach = 0.08 + 0.14 * broken.severity
        near = ramp(reach - np.abs(thorax.v - low), 0.04) * thorax.half[side]
        beyond = thorax.a - np.float32(at)
        back = back + near * ramp(beyond, 0.02) * (0.045 + 0.035 * broken.severity)
        gap = bump(beyond, 0.022) * near
        edges = (bump(beyond - 0.035, 0.016) + bump(beyond + 0.035, 0.016)) * near
        site += (0.17 + 0.12 * broken.severity) * edges - (0.16 + 0.08 * broken.severity) * gap
        bruise = bump(thorax.v - low, reach) * ramp(0.07 + 0.05 * broken.severity - thorax.depth, 0.04)
        site += 0.30 * bruise * ramp(thorax.depth, 0.03) * thorax.half[side]
    return back, site


def _girdle(thorax: Thorax, patient: Patient) -> Field:
    lines: list[Stroke] = []
    discs = []
    for side in (1, -1):
        top = thorax.top + 0.13 + 0.012 * side * patient.tilt
        bone = [(0.09, top + 0.05), (0.28, top + 0.03), (0.50, top - 0.05), (0.74, top - 0.06)]
        points = curve([thorax.spot(side, *p) for p in bone])
        lines += [(points, 0.066, 0.95), (points, 0.030, 0.65)]
        blade = [(0.80, top + 0.04), (0.70, top + 0.30), (0.66, top + 0.62)]
        lines.append((curve([thorax.spot(side, *p) for p in blade]), 0.05, 0.40))
        discs.append((*thorax.spot(side, 0.92, top + 0.06), 0.105, 0.65))
    return 0.16 * strokes(thorax.size, lines, discs)


def parenchyma(rng: np.random.Generator, size: int) -> Field:
    """Fine lung texture [S, S], unit variance or so."""
    return cloud(rng, size, 36)
