"""An operating point: from which score each label is named, fitted on known studies, applied to scores of one kind."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from chexreason.files import read_sealed, write_sealed
from chexreason.statistics.cuts import CALIBRATIONS, Target
from chexreason.statistics.metrics import BoolArray, FloatArray

_VERSION = 1
_WAY_OUT = "it was edited or is damaged; run chexreason.cli.calibrate again, which writes it anew"


@dataclass(frozen=True)
class ScoreOrigin:
    """How label scores came about: by which model and adapters (hashes), to which prompt, with whose reasoning.

    ``labels`` are in the order of the scores' columns, ``kind`` is that of the scores, ``convention`` says how marks
    became labels in ``dataset``, ``data_sha256`` of which content.
    """

    model: str
    adapters: tuple[str, ...]
    prompt: str
    reasoning: str
    kind: str
    labels: tuple[str, ...]
    dataset: str
    convention: str
    data_sha256: str


@dataclass(frozen=True)
class OperatingPoint:
    """The ``cuts`` [L] of labels and all that they stand on; label by label in the order of ``origin.labels``.

    A label is named where score >= cut; its probability is sigmoid(slope * score + bias). ``positives`` and
    ``negatives`` are those among the studies it was fitted on, ``rare`` the labels that share a shrunken cut. ``ids``
    are those studies', as SHA-256 of salt and id where there is a ``salt``; ``weights`` how much each counted, empty
    where all counted alike. Raises ValueError where these do not fit each other or a number is not finite.
    """

    origin: ScoreOrigin
    target: str
    at: float | None
    calibration: str
    cuts: tuple[float, ...]
    slopes: tuple[float, ...]
    biases: tuple[float, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    rare: tuple[str, ...]
    min_positives: int
    scores_sha256: str
    ids: tuple[str, ...]
    salt: str = ""
    weights: tuple[float, ...] = ()
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Target(self.target, self.at)
        labels = self.origin.labels
        for name in ("cuts", "slopes", "biases", "positives", "negatives"):
            values = getattr(self, name)
            if len(values) != len(labels):
                raise ValueError(f"an operating point of {len(labels)} labels has {len(values)} {name}: {_WAY_OUT}")
            for label, value in zip(labels, values, strict=True):
                if type(value) not in (int, float) or not math.isfinite(value):
                    raise ValueError(f"{name} of an operating point: {value!r} of '{label}' is no number: {_WAY_OUT}")
        if self.calibration not in CALIBRATIONS or min(self.slopes) < 0 or not {*self.rare} <= {*labels}:
            raise ValueError(f"calibration or rare labels of an operating point do not fit its labels: {_WAY_OUT}")
        if not self.ids or len({*self.ids}) != len(self.ids) or len(self.weights) not in (0, len(self.ids)):
            raise ValueError(f"an operating point names no studies, or one twice, or other weights: {_WAY_OUT}")


def write_point(path: Path, point: OperatingPoint) -> None:
    """Write it with the hash of its content, atomically."""
    write_sealed(path, {"version": _VERSION, **asdict(point)})


def read_point(path: Path) -> OperatingPoint:
    """The operating point in ``path``; raises ValueError where it is missing, was edited by hand, or does not fit."""
    row = read_sealed(path, _WAY_OUT, needed=True)
    if (version := row.pop("version", None)) != _VERSION:
        raise ValueError(f"{path} has version {version!r}, this chexreason reads {_VERSION}: {_WAY_OUT}")
    try:
        return OperatingPoint(ScoreOrigin(**_tuples(row.pop("origin"))), **_tuples(row))
    except (TypeError, KeyError, AttributeError) as fault:
        raise ValueError(f"{path} is no operating point ({fault}): {_WAY_OUT}") from None
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}") from None


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


def hashed_ids(study_ids: Iterable[str], salt: str) -> tuple[str, ...]:
    """The ids as an operating point keeps them; without ``salt`` as they are."""
    return tuple(hashlib.sha256(f"{salt}:{i}".encode()).hexdigest() if salt else i for i in study_ids)


def check_origin(point: OperatingPoint, origin: ScoreOrigin, *, any_convention: bool = False) -> None:
    """Refuse (ValueError) scores that came about in another way than those that the point was fitted on.

    The data set may be another. Its label convention may not, except with ``any_convention``: then the caller says so.
    """
    here = ("convention", "data_sha256") if origin.dataset == point.origin.dataset else ("convention",)
    free = {"dataset", "convention", "data_sha256"} - {*here} | ({"convention"} if any_convention else set())
    for name in (field.name for field in fields(ScoreOrigin) if field.name not in free):
        fitted, given = getattr(point.origin, name), getattr(origin, name)
        if fitted != given:
            what = {"labels": "other labels, or another order of them", "data_sha256": "other data of the same name"}
            what["adapters"] = "other adapters"
            raise ValueError(
                f"the operating point was fitted with {what.get(name, f'another {name}')}: {fitted!r}, these scores of "
                f"'{origin.dataset}' have {given!r}: fit one for them with chexreason.cli.calibrate"
            )


def apply(
    point: OperatingPoint,
    scores: FloatArray,
    study_ids: Sequence[str],
    origin: ScoreOrigin,
    *,
    any_convention: bool = False,
) -> BoolArray:
    """The labels [N, L] that the point names, from scores [N, L] of ``origin``.

    Raises ValueError on scores of another origin (``check_origin``) or shape or not finite, and on a study that the
    cuts were fitted on: what they attain there is no forecast, so such studies get cross-fitted cuts.
    """
    check_origin(point, origin, any_convention=any_convention)
    if scores.shape != (len(study_ids), len(point.cuts)):
        raise ValueError(f"scores have the shape {list(scores.shape)}; {[len(study_ids), len(point.cuts)]} expected")
    if len(bad := np.argwhere(~np.isfinite(scores))):
        (row, column), label = bad[0], point.origin.labels[bad[0][1]]
        raise ValueError(
            f"{len(bad)} scores are not finite: the first is {scores[row, column]} of '{label}' in study "
            f"'{study_ids[row]}'; score this arm anew with restart=true"
        )
    known = {*point.ids}
    if seen := [i for i, kept in zip(study_ids, hashed_ids(study_ids, point.salt), strict=True) if kept in known]:
        raise ValueError(
            f"the operating point was fitted on {len(seen)} of these {len(study_ids)} studies, e.g. '{seen[0]}': leave "
            "them out, or cut them with chexreason.statistics.cuts.cross_fitted"
        )
    named: BoolArray = scores >= np.array(point.cuts)
    return named


def probabilities(point: OperatingPoint, scores: FloatArray) -> FloatArray:
    """The calibrated probabilities [N, L] of scores [N, L]; of another hospital they are no more than scores."""
    p: FloatArray = 1 / (1 + np.exp(-np.clip(np.array(point.slopes) * scores + np.array(point.biases), -500, 500)))
    return p
