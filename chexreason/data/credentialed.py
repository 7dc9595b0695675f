"""Which data may leave this machine: sets declared public; every other one only under an agreement that has a name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from chexreason.data.manifest import Manifest

# Vendors whose agreements forbid passing images, labels or text on, by how the prefix of their patients' ids begins.
VENDORS = ("mimic", "chexpert", "padchest", "vindr")
# How they name patients, studies and files, whatever a copy and its folders are called, and joined by whatever mark;
# MIMIC's bare numbers are no proof, its films are five words of hexadecimal digits.
_THEIRS = re.compile(
    r"(?i)(?<![a-z\d])(?:p1\d{7}|s5\d{7})(?![a-z\d])|(?<![a-z])patient\d{5}(?:$|[/_. -]?study\d)"
    r"|(?<![a-z\d])(?:[\da-f]{8}[-_]){4}[\da-f]{8}(?![a-z\d])"
    r"|/\d{30,}_[\w-]+\.png$"
)
_SUBJECT = re.compile(r":1\d{7}$")
# Sources that are public in manifests older than the declaration, where all images have such names: a folder that a
# user names may be another's.
_SHIPPED = {"phantom": ".*", "nih14": r"\d{8}_\d{3}", "nih14_readers": r"\d{8}_\d{3}"}
_NO_NAME = {"null", "none", "true", "false", "allowed"}


class ExportError(ValueError):
    """Data of a set that is not public would leave the machine."""


class Record(Protocol):
    """A study, a prediction or a trace."""

    @property
    def dataset(self) -> str: ...
    @property
    def patient_id(self) -> str: ...


def of_vendor(patient_id: str) -> bool:
    """True for a patient of one of ``VENDORS``."""
    return patient_id.partition(":")[0].lower().startswith(VENDORS)


def held_sets(records: Iterable[Record], public: Collection[str]) -> list[str]:
    """The data sets, sorted, with a record that may not leave: of a set not in ``public``, or of a vendor's patient."""
    return sorted({r.dataset for r in records if r.dataset not in public or of_vendor(r.patient_id)})


def named_agreement(agreement: object) -> str | None:
    """The name of the agreement, None where ``agreement`` has none: "true" or "yes" is no name."""
    named = agreement.strip() if isinstance(agreement, str) else ""
    return named if len(named) >= 8 and named.lower() not in _NO_NAME else None


def agreement_for(records: Iterable[Record], public: Collection[str], agreement: object, way: str) -> str | None:
    """The name of the agreement under which ``records`` leave by ``way``, which says where and what to do instead.

    None where all are of ``public`` sets; raises ExportError where one is not and ``agreement`` has no name.
    """
    held, named = held_sets(records, public), named_agreement(agreement)
    if held and named is None:
        raise ExportError(
            f"studies of {', '.join(held)} are not declared public and may not go {way}, or name the agreement that "
            f"allows it: allow_export='...' (found {agreement!r})"
        )
    return named if held else None


def declared_public(manifests: Mapping[str, Manifest]) -> tuple[frozenset[str], dict[str, str]]:
    """The sets of one study that are public, and of the others declared so why they are not.

    The declaration is read from the manifest, so that it goes where the set goes; with ``public_names`` it is one about
    images of these names. It does not hold for a set with patients or files of ``VENDORS``, nor for one with an image
    that is in another set of the study, or lies in its folder, where that set is not public.
    """
    declared, faults = {name for name, manifest in manifests.items() if _declared(manifest)}, {}
    for name in sorted(declared):
        patients, images = set(manifests[name].frame["patient_id"]), _paths(manifests[name])
        if all(map(_SUBJECT.search, patients)) or any(of_vendor(p) or _THEIRS.search(p) for p in patients | images):
            faults[name] = f"has patients or files named as those of {' or '.join(VENDORS)} are"
    for other in {*manifests} - declared | {*faults}:
        folder = Path(os.path.commonpath(map(os.path.dirname, _paths(manifests[other])))).resolve()
        for name in declared - faults.keys():
            places = {*map(os.path.dirname, _paths(manifests[name]))}
            shared = set(manifests[name].frame.get("sha256", ())) & set(manifests[other].frame.get("sha256", ())) - {""}
            if shared or any(Path(place).resolve().is_relative_to(folder) for place in places):
                faults[name] = f"has images of set '{other}', or from its folder, and that is not public"
    return frozenset(declared - faults.keys()), faults


def _declared(manifest: Manifest) -> bool:
    facts, source = manifest.provenance, manifest.provenance.get("source")
    names = str(facts.get("public_names") or _SHIPPED.get(source, ".*"))
    said = facts.get("public", source in _SHIPPED) is True
    return said and all(re.fullmatch(names, Path(path).stem) for path in manifest.frame["path"])


def _paths(manifest: Manifest) -> set[str]:
    return {f"{manifest.root}/{path}" for path in manifest.frame["path"]}
