"""The leakage guard: no patient and no picture on both sides of a boundary between training and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import pandas as pd

from chexreason.data.fingerprint import near_pairs
from chexreason.data.manifest import ManifestError

TRAIN = ("sft", "rl")
EVALUATION = ("val", "test")
_SIDES = {"train": TRAIN, "val": ("val",), "test": ("test",)}  # splits on each side; other splits are on none
RADIUS = 16  # bits of 256 in which near-identical pictures may differ: see data/fingerprint.py for the measurement
_SHOWN = 3  # examples kept of a leak
LEAK_KINDS = {"patient": "the same patients", "image": "the same image files", "picture": "near-identical pictures"}


class _Row(NamedTuple):
    dataset: str
    patient: str
    study: str
    sha256: str
    phash: str


Twins = dict[tuple[str, str], dict[str, tuple[_Row, _Row]]]  # by sets, by what is shared: one row of each side


class LeakageError(ManifestError):
    """Patients or pictures on both sides of a boundary."""


@dataclass(frozen=True)
class Leak:
    """What two sets, or two sides of one set, share across a boundary.

    ``kind`` is "patient", "image" (equal bytes) or "picture" (near-identical). ``one`` and ``other`` are the sets,
    ``sides`` the side each is on ("train", "val" or "test"). ``count`` patients, contents of files, or pictures of
    ``other`` are concerned, the first of them in ``examples``. ``allowed`` says that the config names this pair.
    """

    kind: str
    one: str
    other: str
    sides: tuple[str, str]
    count: int
    examples: tuple[str, ...]
    allowed: bool

    def __str__(self) -> str:
        shown = ", ".join(self.examples) + (", ..." if self.count > len(self.examples) else "")
        where = f"{self.one} ({self.sides[0]}) and {self.other} ({self.sides[1]})"
        return f"{where}: {self.count} of {LEAK_KINDS[self.kind]}: {shown}"


def find_leaks(
    frames: Mapping[str, pd.DataFrame], allowed: Collection[Sequence[str]] = (), radius: int = RADIUS
) -> list[Leak]:
    """Every leak between the training, validation and test rows of ``frames`` (manifest rows by set), allowed or not.

    Rows without hashes are compared by patient alone. ``allowed`` are pairs of names of sets, in either order; raises
    ValueError on what is no pair of two of ``frames``.
    """
    named = _pairs(allowed, frames)
    rows = {side: [row for name in frames for row in _rows(name, frames[name], side)] for side in _SIDES}
    leaks = []
    for sides in combinations(_SIDES, 2):
        left, right = rows[sides[0]], rows[sides[1]]
        found = {
            "patient": _equal(left, right, "patient"),
            "image": _equal(left, right, "sha256"),
            "picture": _near(left, right, radius),
        }
        leaks += [_leak(kind, sets, sides, twins, named) for kind in found for sets, twins in found[kind].items()]
    return leaks


def check_leaks(
    frames: Mapping[str, pd.DataFrame], allowed: Collection[Sequence[str]] = (), radius: int = RADIUS
) -> list[Leak]:
    """The leaks that ``allowed`` accepts; raises LeakageError listing all the others, with counts and examples."""
    leaks = find_leaks(frames, allowed, radius)
    refused = [leak for leak in leaks if not leak.allowed]
    if refused:
        pairs = sorted({tuple(sorted((leak.one, leak.other))) for leak in refused})
        named = ",".join(f"[{one},{other}]" for one, other in pairs)
        listed = "\n".join(f"  {leak}" for leak in refused)
        raise LeakageError(
            f"training, validation and test data overlap:\n{listed}\n"
            f"take a set out of the data config, or accept the overlap by naming it: data.allow_overlap=[{named}]"
        )
    return leaks


def _pairs(allowed: Collection[Sequence[str]], frames: Mapping[str, pd.DataFrame]) -> set[frozenset[str]]:
    for pair in allowed:
        if isinstance(pair, str) or len(pair) != 2 or not set(pair) <= set(frames):
            raise ValueError(f"allow_overlap has {pair}; name pairs of these sets: {', '.join(frames)}")
    return {frozenset(pair) for pair in allowed}


def _rows(name: str, frame: pd.DataFrame, side: str) -> list[_Row]:
    """The rows of one set that are on ``side``; hashes that the frame does not have are empty."""
    rows = frame[frame["split"].isin(_SIDES[side])]
    empty = [""] * len(rows)
    hashes = [rows.get(column, empty) for column in ("sha256", "phash")]
    return [_Row(name, *values) for values in zip(rows["patient_id"], rows["study_id"], *hashes, strict=True)]


def _equal(left: list[_Row], right: list[_Row], field: str) -> Twins:
    """Rows with the same, known value of ``field``, one pair a value."""
    index: dict[str, dict[str, _Row]] = {}
    for row in right:
        index.setdefault(getattr(row, field), {}).setdefault(row.dataset, row)
    index.pop("", None)
    twins: Twins = {}
    for row in left:
        value = getattr(row, field)
        for name, twin in index.get(value, {}).items():
            twins.setdefault((row.dataset, name), {}).setdefault(value, (row, twin))
    return twins


def _near(left: list[_Row], right: list[_Row], radius: int) -> Twins:
    """Rows with near hashes but other bytes, one pair a row on the right."""
    twins: Twins = {}
    for i, j in near_pairs([row.phash for row in left], [row.phash for row in right], radius).tolist():
        row, twin = left[i], right[j]
        if row.sha256 != twin.sha256:
            twins.setdefault((row.dataset, twin.dataset), {}).setdefault(twin.study, (row, twin))
    return twins


def _leak(
    kind: str,
    sets: tuple[str, str],
    sides: tuple[str, str],
    twins: Mapping[str, tuple[_Row, _Row]],
    named: set[frozenset[str]],
) -> Leak:
    first = list(twins.values())[:_SHOWN]
    examples = tuple(row.patient if kind == "patient" else f"{row.study} = {twin.study}" for row, twin in first)
    return Leak(kind, *sets, sides, len(twins), examples, frozenset(sets) in named)
