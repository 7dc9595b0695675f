"""Crosswalks: what the finding names of vendors mean in CheXpert's fourteen labels (``vendors.yaml``)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from chexreason.labels.catalog import CHEXPERT14, PARENT_OF

_VENDORS = yaml.safe_load(Path(__file__).with_name("vendors.yaml").read_text(encoding="utf-8"))
Names = Mapping[str, Collection[str]]  # our label: the vendor's names of which any makes it positive


def names_of(vendor: str) -> dict[str, tuple[str, ...]]:
    """The names of each label that ``vendor`` judges; those of a child are also its parent's, if that is judged."""
    own = _VENDORS[vendor]
    below = {label: [n for child in own if PARENT_OF.get(child) == label for n in own[child]] for label in own}
    return {label: (*own[label], *below[label]) for label in CHEXPERT14 if label in own}


def never_judged(names: Names) -> tuple[str, ...]:
    """The labels without a name: blank, not absent."""
    return tuple(label for label in CHEXPERT14 if label not in names)


NIH = names_of("nih14")


@dataclass(frozen=True)
class Crosswalk:
    """What each name of ``vendor`` means: ``names`` maps it to our labels (none, one or several).

    ``derived`` maps a label the vendor has no name for to the names of which any makes it positive.
    """

    vendor: str
    names: Mapping[str, tuple[str, ...]]
    derived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: vendor name, its label or "", the labels derived from it or ""."""
        return [
            (name, ", ".join(labels), ", ".join(label for label, parts in self.derived.items() if name in parts))
            for name, labels in self.names.items()
        ]


# Every name NIH uses; those of the second line have no label of their own.
_OWN: dict[str, tuple[str, ...]] = {
    name: (label,) for label, names in NIH.items() if label != "Lung Opacity" for name in names
}
_OWN |= dict.fromkeys(("Emphysema", "Fibrosis", "Hernia", "Infiltration"), ())
NIH14 = Crosswalk("NIH ChestX-ray14", dict(sorted(_OWN.items())), {"Lung Opacity": NIH["Lung Opacity"]})


def crosswalk_of(provenance: Mapping[str, object]) -> Crosswalk | None:
    """The crosswalk a set was read with, from the provenance in its manifest; None where its names are ours.

    A source may declare its own as ``crosswalk`` (its name -> our label, a list of labels, or "" for none).
    """
    source = str(provenance.get("source", ""))
    declared, columns = provenance.get("crosswalk"), provenance.get("label_columns")
    if isinstance(parts := provenance.get("hospitals"), Mapping):
        walks = {f"{part}: ": walk for part in parts if (walk := crosswalk_of(parts[part]))}
        names = {at + name: labels for at, walk in walks.items() for name, labels in walk.names.items()}
        derived = [(at + n, label) for at, walk in walks.items() for label in walk.derived for n in walk.derived[label]]
        return Crosswalk(
            "its hospitals", names, {label: tuple(n for n, of in derived if of == label) for _, label in derived}
        )
    if isinstance(declared, Mapping):
        return Crosswalk(source, {str(name): _listed(labels) for name, labels in declared.items()})
    if source == "nih14":
        return NIH14 if provenance.get("include_opacity", True) else Crosswalk(NIH14.vendor, NIH14.names)
    if isinstance(columns, Mapping):  # of a table: our label -> its column or columns
        theirs = dict.fromkeys(name for names in columns.values() for name in _listed(names))
        labels = {name: tuple(ours for ours, names in columns.items() if name in _listed(names)) for name in theirs}
        return Crosswalk("the table's columns", labels)
    return None


def _listed(names: object) -> tuple[str, ...]:
    """One name, several or "" as a tuple."""
    if isinstance(names, str):
        return (names,) if names else ()
    return tuple(str(name) for name in names) if isinstance(names, Iterable) else ()


def marks_of(
    lists: Sequence[frozenset[str] | None], names: Names, silent: Collection[str] = ()
) -> npt.NDArray[np.float64]:
    """Raw marks [N, 14] of lists of findings: 1 where one of a label's ``names`` is listed, else 0.

    NaN stands in labels without names, and in rows whose list is None. No Finding holds beside a support device and
    ``silent`` words alone: a finding without a label is one too.
    """
    healthy = {*silent, *names.get("No Finding", ()), *names.get("Support Devices", ())}
    rows: dict[frozenset[str] | None, list[float]] = {None: [np.nan] * len(CHEXPERT14)}
    for found in {found for found in lists if found is not None}:  # 112,120 images share a few hundred combinations
        marks = {label: float(not found.isdisjoint(names[label])) for label in names}
        rows[found] = [marks.get(label, np.nan) for label in CHEXPERT14]
        rows[found][CHEXPERT14.index("No Finding")] *= found <= healthy
    return np.array([rows[found] for found in lists], dtype=np.float64).reshape(len(lists), len(CHEXPERT14))


def nih_to_chexpert(finding_strings: Iterable[str], include_opacity: bool = True) -> npt.NDArray[np.float64]:
    """``marks_of`` findings written as NIH does, "Effusion|Mass"; Lung Opacity is derived from other findings."""
    names = {label: NIH[label] for label in NIH if include_opacity or label != "Lung Opacity"}
    return marks_of([frozenset(text.split("|")) for text in finding_strings], names)
