"""The chest as geometry: where lungs, heart, mediastinum and domes lie, given a patient and what distorts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chexreason.phantom.fields import Field, ramp
from chexreason.phantom.patient import Patient
from chexreason.types import Sign


def signed_sides(side: str) -> tuple[int, ...]:
    """Image direction of a patient's side: the patient's left lies on the image's right (+1)."""
    return {"left": (1,), "right": (-1,), "both": (1, -1)}.get(side, (1,))


@dataclass(frozen=True, slots=True)
class Thorax:
    """Fields of one chest at one size S; x runs to the image's right, v downwards, both over -1..1.

    ``a`` [1, S] is the distance from the midline, ``half`` maps +1 / -1 to a column mask [1, S]; ``depth`` [S, S] is
    the distance inwards from the lateral chest wall; ``lung``, ``heart`` [S, S] are soft masks; ``outer`` [S, 1] is
    the lateral lung edge, ``floor`` [1, S] the domes, ``dome`` their tops by side.
    """

    size: int
    x: Field
    v: Field
    a: Field
    mid: float
    width: float
    top: float
    dome: Mapping[int, float]
    half: Mapping[int, Field]
    outer: Field
    inner: Field
    floor: Field
    depth: Field
    lung: Field
    heart: Field
    hilum: float

    def spot(self, side: int, a: float, v: float) -> tuple[float, float]:
        """Image coordinates of the point at distance ``a`` from the midline on ``side``."""
        return self.mid + side * a, v


def build_thorax(patient: Patient, findings: Mapping[str, Sign], view: str, size: int, jitter: Field) -> Thorax:
    """Lay out the chest of ``patient``; ``jitter`` [4] holds this film's inspiration, shift x, shift v and rotation."""
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2.0 / size) - np.float32(1.0)
    zoom = 1.0 + 0.03 * patient.tilt + (0.03 if view == "AP" else 0.0)
    x = ((axis - np.float32(0.05 * jitter[1])) / np.float32(zoom))[None, :]  # [1, S]
    v = ((axis - np.float32(0.05 * jitter[2])) / np.float32(zoom))[:, None]  # [S, 1]
    mid = float(0.02 * jitter[3] + _shift(findings))
    a = np.abs(x - np.float32(mid))
    half = {1: (x > mid).astype(np.float32), -1: (x <= mid).astype(np.float32)}
    drop = 0.05 * float(jitter[0]) - (0.09 if view == "AP" else 0.0)
    dome = {side: patient.dome + drop + 0.03 * side - _raised(findings, side) for side in (1, -1)}
    top, width = patient.apex, patient.width
    outer, inner = _edges(v, top, patient.dome + 0.25, width)
    floor = half[1] * _dome(a, dome[1], width) + half[-1] * _dome(a, dome[-1], width)
    depth = outer - a
    lung = ramp(depth, 0.05) * ramp(a - inner, 0.05) * ramp(floor - v, 0.03)
    heart = _heart(x - np.float32(mid), v, patient, findings, view, (dome[1] + dome[-1]) / 2)
    return Thorax(size, x, v, a, mid, width, top, dome, half, outer, inner, floor, depth, lung, heart, top + 0.66)


def _shift(findings: Mapping[str, Sign]) -> float:
    """Mediastinal shift: towards lost volume, away from air or much fluid under pressure."""
    pull = {"Atelectasis": (1.0, 0.35, 0.14), "Pneumothorax": (-1.0, 0.6, 0.20), "Pleural Effusion": (-1.0, 0.7, 0.15)}
    shift = 0.0
    for label, (direction, onset, gain) in pull.items():
        sign = findings.get(label)
        if sign is not None and sign.side in ("left", "right"):
            shift += direction * signed_sides(sign.side)[0] * gain * max(0.0, sign.severity - onset)
    return shift


def _raised(findings: Mapping[str, Sign], side: int) -> float:
    sign = findings.get("Atelectasis")
    return 0.04 + 0.13 * sign.severity if sign is not None and side in signed_sides(sign.side) else 0.0


def _edges(v: Field, top: float, low: float, width: float) -> tuple[Field, Field]:
    """Lateral and medial lung edge [S, 1] row by row; they meet above the apex."""
    t = np.clip((v - top) / (low - top), 0.0, 1.0)
    apex = 0.42 * width
    outer = apex + (width - apex) * (1.0 - (1.0 - t) ** 2.3) ** 0.62
    arch = np.sqrt(1.0 - (1.0 - np.clip(t * 4.2, 0.0, 1.0)) ** 2)
    inner = apex - (apex - 0.115) * arch
    closed = np.float32(0.5) * (v < top)
    return (outer - closed).astype(np.float32), (inner + closed).astype(np.float32)


def _dome(a: Field, dome: float, width: float) -> Field:
    lateral = np.clip((a - 0.36) / (width - 0.36), 0.0, 1.3)
    medial = np.clip(0.36 - a, 0.0, 1.0)
    floor: Field = dome + 0.27 * lateral**2.4 + 0.55 * medial**2
    return floor


def _heart(x: Field, v: Field, patient: Patient, findings: Mapping[str, Sign], view: str, dome: float) -> Field:
    """Union of a tilted left-ventricular and an upright right-atrial ellipse [S, S]."""
    big = findings.get("Cardiomegaly")
    scale = (0.90 + 0.03 * float(np.clip(patient.heart, -2.0, 1.0))) * patient.width / 0.70
    scale *= (1.18 + 0.36 * big.severity) if big is not None else 1.0
    scale *= 1.05 if view == "AP" else 1.0
    cos, sin = 0.80, 0.60
    dx, dv = x - np.float32(0.15 * scale), v - np.float32(dome - 0.12 * scale)
    long, short = cos * dx + sin * dv, cos * dv - sin * dx
    left = 1.0 - np.sqrt((long / (0.39 * scale)) ** 2 + (short / (0.27 * scale)) ** 2)
    right = 1.0 - np.sqrt(
        ((x + 0.05 * scale) / (0.165 * scale)) ** 2 + ((v - dome + 0.16 * scale) / (0.25 * scale)) ** 2
    )
    return ramp(np.maximum(left, right), 0.14)
