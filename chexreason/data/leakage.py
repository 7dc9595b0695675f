"""The leakage guard: no patient and no picture on both sides of a boundary between training and evaluation.

It also owns what makes two ids one patient's: the one form of a vendor's name and of its patients' ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import pandas as pd

from chexreason.data.fingerprint import near_pairs
from chexreason.data.manifest import ManifestError
from chexreason.labels.schema import plain

TRAIN = ("sft", "rl")
EVALUATION = ("val", "test")
_SIDES = {"train": TRAIN, "val": ("val",), "test": ("test",)}  # splits on each side; other splits are on none
RADIUS = 20  # bits of 256 in which near-identical pictures may differ: see data/fingerprint.py for the measurement
WARNING_RADIUS = 32  # bits within which pictures are listed for a reader to judge
_SHOWN, _PAIRS = 3, 12  # examples of a leak, and pairs of pictures, that are kept
LEAK_KINDS = {
    "patient": "the same patients",
    "image": "the same image files",
    "picture": "near-identical pictures",
    "unlinked": "the same patient ids",
    "alike": "the pictures that look alike",
}
SUSPECTED = {  # kinds that stop nothing, and what to do about them
    "unlinked": "no vendor is declared: set ++data.sets.SET.source.vendor, one name for one hospital, else two",
    "alike": "look at the pairs on the audit page, and leave one of two copies out (different phantoms may be as near)",
}
# Vendors whose ids are known, by their one name: other names; how files write an id (a bare number, with or without
# zeros and "p", a file's name, a path: "00000013_002.png", "files/p10/p10000032/s50414267"); how manifests write it.
_VENDORS = {
    "nih14": ("nih(14|(chest)?(cxr|xray)(8|14)?)?|chestxray(8|14)", r"(?:.*/)?0*(\d{1,8})(?:_\d{3}.*)?", "{}"),
    "mimic": ("mimic(cxr|cxrjpg|iv)?", r"(?:.*/)?p?(\d{8})(?:/.*)?", "{}"),
    "chexpert": ("chexpert(v10)?(small|plus)?", r"(?:.*/)?(?:patient)?0*(\d{1,5})(?:/.*)?", "patient{:0>5}"),
}
_FREE = re.compile(r"^p(at(ient)?)?[\W_]*(?=\d)|(?<!\d)0+(?=\d)")  # what one file writes before a number, another not


class LeakageError(ManifestError):
    """Patients or pictures on both sides of a boundary."""


@dataclass(frozen=True)
class Leak:
    """What two sets, or two sides of one set, share across a boundary.

    ``kind`` is one of ``LEAK_KINDS``; those ``SUSPECTED`` may be no leak at all. ``one`` and ``other`` are the sets,
    ``sides`` the side each is on ("train", "val" or "test"). ``count`` patients, contents of files, or pictures of
    ``other`` are concerned, the first of them in ``examples``; ``pairs`` are the study ids of the nearest pictures.
    ``allowed`` says that the config names this pair, or that the kind is only suspected.
    """

    kind: str
    one: str
    other: str
    sides: tuple[str, str]
    count: int
    examples: tuple[str, ...]
    allowed: bool
    pairs: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.examples) + (", ..." if self.count > len(self.examples) else "")
        where = f"{self.one} ({self.sides[0]}) and {self.other} ({self.sides[1]})"
        return f"{where}: {self.count} of {LEAK_KINDS[self.kind]}: {shown}"


@cache
def vendor_of(name: str) -> str:
    """The one name of the vendor ``name``, whatever its case, spaces and marks: "MIMIC-CXR" is "mimic"."""
    words = re.findall(r"[^\W_]+", plain(name).casefold())
    known = (vendor for vendor, (names, *_) in _VENDORS.items() if re.fullmatch(names, "".join(words)))
    return next(known, "_".join(words) or name)


def patient_number(vendor: str, written: str) -> str:
    """The id of a patient of ``vendor`` as manifests write it; "" where that vendor has no such id.

    Of a vendor whose ids are not known, it is what was ``written`` in plain characters, without quotes and outer
    spaces: whether zeros and capitals count there, nobody can tell (``same_patient``).
    """
    bare = plain(written).strip("'`\" ")  # a spreadsheet puts a quotation mark before a number that is text
    _, pattern, form = _VENDORS.get(vendor, ("", "(.*)", "{}"))
    found = re.fullmatch(pattern, bare, re.IGNORECASE)
    return form.format(found[1]) if found else ""


def same_patient(patient_id: str) -> str:
    """A key "vendor:number", equal for ids that may mean one patient: leading zeros, case and a "p" do not count."""
    vendor, colon, number = patient_id.partition(":")
    vendor, number = (vendor_of(vendor), number) if colon else ("", patient_id)
    return f"{vendor.replace('_', '')}:{_FREE.sub('', (patient_number(vendor, number) or number).casefold())}"


def find_leaks(
    frames: Mapping[str, pd.DataFrame], allowed: Collection[Sequence[str]] = (), vague: Collection[str] | None = None
) -> list[Leak]:
    """Every leak between the training, validation and test rows of ``frames`` (manifest rows by set), allowed or not.

    Rows without hashes are compared by patient alone. ``allowed`` are pairs of names of sets, in either order. The
    kinds ``SUSPECTED`` are looked for where ``vague`` is given: the sets that declare no vendor. Raises ValueError on
    what is no pair of two of ``frames``.
    """
    named = _pairs(allowed, frames)
    rows = {
        side: pd.concat([_rows(name, frames[name], side) for name in frames], ignore_index=True)
        for side in _SIDES
        if frames
    }
    leaks = []
    for sides in combinations(rows, 2):
        left, right = rows[sides[0]], rows[sides[1]]
        found = {"patient": _equal(left, right, "key"), "image": _equal(left, right, "sha256")}
        found |= _near(left, right, RADIUS if vague is None else WARNING_RADIUS)
        known = set(zip(found["patient"]["dataset"], found["patient"]["dataset_2"], strict=True))
        found["unlinked"] = _equal(left, right, "number") if vague else found["patient"][:0]
        for kind, pairs in found.items():
            for (one, other), twins in pairs.groupby(["dataset", "dataset_2"], sort=False):
                if kind != "unlinked" or ({one, other} & set(vague or ()) and (one, other) not in known):
                    leaks.append(_leak(kind, sides, twins, kind in SUSPECTED or frozenset((one, other)) in named))
    return leaks


def check_leaks(leaks: Sequence[Leak]) -> None:
    """Raises LeakageError listing all of ``leaks`` that are not allowed, with counts, examples and the way out."""
    refused = [leak for leak in leaks if not leak.allowed]
    if refused:
        pairs = sorted({tuple(sorted((leak.one, leak.other))) for leak in leaks if leak.kind not in SUSPECTED})
        named = ",".join(f"[{one},{other}]" for one, other in pairs)
        listed = "\n".join(f"  {leak}" for leak in refused)
        raise LeakageError(
            f"training, validation and test data overlap:\n{listed}\n"
            f"take a set out of the data config, or accept the overlap by naming it: ++data.allow_overlap=[{named}]"
        )


def _pairs(allowed: Collection[Sequence[str]], frames: Mapping[str, pd.DataFrame]) -> set[frozenset[str]]:
    for pair in allowed:
        if isinstance(pair, str) or len(pair) != 2 or not set(pair) <= set(frames):
            raise ValueError(f"allow_overlap has {pair}; name pairs of these sets: {', '.join(frames)}")
    return {frozenset(pair) for pair in allowed}


def _rows(name: str, frame: pd.DataFrame, side: str) -> pd.DataFrame:
    """The rows of one set that are on ``side``; hashes that the frame does not have are empty.

    ``key`` is equal where patients may be the same, ``number`` is that key without its vendor.
    """
    rows = frame[frame["split"].isin(_SIDES[side])]
    key = rows["patient_id"].map({patient: same_patient(patient) for patient in rows["patient_id"].unique()})
    columns = {column: rows.get(column, "") for column in ("patient_id", "study_id", "sha256", "phash")}
    number = [patient.partition(":")[2] for patient in key]
    return pd.DataFrame({"dataset": name, **columns, "key": key, "number": number}, rows.index)


def _equal(left: pd.DataFrame, right: pd.DataFrame, field: str) -> pd.DataFrame:
    """Pairs of rows with the same, known value of ``field``, one a value and two sets; ``_2`` ends right's columns."""
    sides = [rows[rows[field] != ""].drop_duplicates(["dataset", field]) for rows in (left, right)]
    one, other = (rows.assign(shared=rows[field]) for rows in sides)
    return one.merge(other, on="shared", suffixes=("", "_2"))


def _near(left: pd.DataFrame, right: pd.DataFrame, radius: int) -> dict[str, pd.DataFrame]:
    """Pairs of rows with near hashes but other bytes, nearest first, one a row on the right; by kind of leak."""
    found = near_pairs(left["phash"].tolist(), right["phash"].tolist(), radius)
    i, j, bits = found[found[:, 2].argsort(kind="stable")].T
    one, other = left.iloc[i].reset_index(drop=True), right.iloc[j].reset_index(drop=True)
    pairs = one.join(other, rsuffix="_2")[one["sha256"] != other["sha256"]]
    close = bits[pairs.index] <= RADIUS
    kinds = {"picture": pairs[close], "alike": pairs[~close & (pairs["key"] != pairs["key_2"])]}
    return {kind: of.drop_duplicates(["dataset", "dataset_2", "study_id_2"]) for kind, of in kinds.items()}


def _leak(kind: str, sides: tuple[str, str], twins: pd.DataFrame, allowed: bool) -> Leak:
    """The leak of all ``twins``, pairs of rows of the same two sets."""
    name = "patient_id" if kind in ("patient", "unlinked") else "study_id"
    first = list(zip(twins[name][:_PAIRS], twins[f"{name}_2"][:_PAIRS], strict=True))
    examples = tuple(one if one == other else f"{one} = {other}" for one, other in first[:_SHOWN])
    pairs = tuple(first) if kind in ("picture", "alike") else ()
    return Leak(kind, *twins[["dataset", "dataset_2"]].iloc[0], sides, len(twins), examples, allowed, pairs)
