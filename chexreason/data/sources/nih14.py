"""NIH ChestX-ray14 from a local folder: the vendor's csv, split lists and images, of the full set or of a copy."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from chexreason.data.leakage import patient_number
from chexreason.data.manifest import parameters
from chexreason.data.sampling import random_order
from chexreason.data.sources.columns import Faults, VendorCsv, closest, first_of, listed_in, sha256_by_name, years
from chexreason.data.sources.tree import VendorFolder, Where, films, found, located, without_suffix
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.crosswalk import NIH14, nih_to_chexpert
from chexreason.progress import Track

log = logging.getLogger(__name__)
_CSV_NAMES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_CSV_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
_LIST_NAMES = {"train": "train_val_list", "test": "test_list"}  # .txt, or _NIH.txt in Kaggle's resized copy
IMAGES = "images*"  # the vendor's folders: images, images_001, images-224, and folders of these names in them
_SPLITS = ("official", "patient_hash")


@dataclass(frozen=True)
class NIH14Source(VendorFolder):
    """The rows of ChestX-ray14 with CheXpert labels.

    ``split="official"`` follows the vendor's two lists and takes val from the training patients; ``"patient_hash"``
    needs no list: sha1(patient id) mod 10 is 0-6 train, 7 val, 8-9 test. Training patients go to ``sft`` with
    probability ``sft_share``, else to ``rl``. ``n_per_split`` draws that many studies of a split, by ``seed``.
    ``allow_missing`` keeps the rows whose image is present (a partial download).
    """

    split: str = "official"
    sft_share: float = 0.7
    include_opacity: bool = True
    n_per_split: Mapping[str, int] | None = None
    allow_missing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise ValueError(f"NIH split='{self.split}'; choose one of: {', '.join(_SPLITS)}")
        if not 0.0 <= self.sft_share <= 1.0:
            raise ValueError(f"sft_share={self.sft_share} is not in 0..1")

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters, the hash of the csv and of the split lists, and the number of images found."""
        files = [self._csv(), *(self._lists().values() if self.split == "official" else ())]
        return {
            "source": "nih14",
            **parameters(self, "root"),
            "sha256": sha256_by_name(files),
            "images_found": len(films(self.image_root, IMAGES)),
        }

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; nothing is written.

        Raises FileNotFoundError on a missing csv or list and ValueError that lists all faults of their content.
        """
        faults = Faults(f"{self.name} ({self.image_root})")
        file = self._csv()
        table = _read_entries(file, faults)
        in_test = self._in_test(table, faults) if self.split == "official" else None
        image = by_value(table["Image Index"], without_suffix)
        where = located(self.image_root, image, IMAGES)  # the csv says .png whatever the files are
        present = note_missing(file, table["Image Index"], where, self.allow_missing, faults)
        faults.stop()
        marks = nih_to_chexpert(table["Finding Labels"], self.include_opacity)  # [N, 14]
        rows = pd.DataFrame(
            {
                "study_id": self.name + ":" + image,
                "patient_id": "nih14:" + table["Patient ID"],  # by vendor: resized copies of the set share patients
                "dataset": self.name,
                "split": hashed_split(table["Patient ID"], self.sft_share, in_test),
                "path": where[0],
                "view": table["View Position"],
                "age": years(table["Patient Age"]),
                "sex": table["Patient Gender"].where(table["Patient Gender"].isin(["M", "F"]), ""),
                **{label: marks[:, i] for i, label in enumerate(CHEXPERT14.labels)},
            }
        )
        return self._drawn(rows[present])

    def _csv(self) -> Path:
        return found(self.image_root, _CSV_NAMES, "; download it beside the images")

    def _lists(self) -> dict[str, Path]:
        way_out = "; download the official list, or set split=patient_hash"
        names = {part: (f"{name}.txt", f"{name}_NIH.txt") for part, name in _LIST_NAMES.items()}
        return {part: found(self.image_root, names[part], way_out) for part in names}

    def _in_test(self, table: pd.DataFrame, faults: Faults) -> pd.Series:
        """Which rows [N] the vendor's test list names; an image in both lists or in none is a fault."""
        files, image, patient = self._lists(), table["Image Index"], table["Patient ID"]
        listed = {part: listed_in(path, faults) for part, path in files.items()}
        in_train, in_test = by_value(image, listed["train"].__contains__), by_value(image, listed["test"].__contains__)
        both = sorted(listed["train"] & listed["test"])
        if both:
            faults.add(files["test"], f"{len(both)} images are in {files['train'].name} too: {first_of(both)}")
        crossing = sorted(set(patient[in_train & ~in_test].tolist()) & set(patient[in_test].tolist()))
        if crossing:
            faults.add(files["test"], f"{len(crossing)} patients have images in both lists: {first_of(crossing)}")
        if lost := sorted((listed["train"] | listed["test"]).difference(image)):
            what = f"{len(lost)} images of the official lists have no row: {first_of(lost)}"
            if not self.allow_missing:
                faults.add(self._csv(), f"{what}; complete the csv, or set allow_missing=true")
            log.warning("%s: %s", self._csv(), what)
        nowhere = ~(in_train | in_test)
        faults.add_rows(self._csv(), "whose image is in neither official list", nowhere, image)
        return in_test

    def _drawn(self, rows: pd.DataFrame) -> pd.DataFrame:
        """``rows`` with ``n_per_split`` studies of each split that it names, chosen by hash, whatever else is present.

        Raises ValueError where a split has fewer.
        """
        keep = pd.Series(True, index=rows.index)
        for split, n in (self.n_per_split or {}).items():
            inside = rows["study_id"][rows["split"] == split]
            if n > len(inside):
                raise ValueError(f"n_per_split asks for {n} studies of '{split}'; '{self.name}' has {len(inside)}")
            keep[inside.index[random_order(inside.tolist(), self.seed)[n:]]] = False
        return rows[keep].reset_index(drop=True)


def _read_entries(file: Path, faults: Faults) -> pd.DataFrame:
    """The vendor's table as text, one row an image, ``Patient ID`` without leading zeros; its faults are noted."""
    csv = VendorCsv(file, _CSV_COLUMNS, faults)
    patient = patients_of(csv, csv.rows["Image Index"])
    csv.no_repeats(csv.rows["Image Index"])
    _check_findings(file, csv.rows["Finding Labels"], faults)
    return csv.rows.assign(**{"Patient ID": patient})


def patients_of(csv: VendorCsv, image: pd.Series) -> pd.Series:
    """The patient of each ``image`` [N]; no image, and one of another's name ("00000001_000" is of 1), are faults."""
    patient, named = (by_value(v, partial(patient_number, "nih14")) for v in (csv.whole_numbers("Patient ID"), image))
    csv.faults.add_rows(csv.file, "without an image", image == "", patient)
    other = (named != "") & (named != patient)
    csv.faults.add_rows(csv.file, "whose Patient ID is not the one in the image's name", other, image)
    return patient


def note_missing(file: Path, image: pd.Series, where: Where, allow_missing: bool, faults: Faults) -> pd.Series:
    """Which rows [N] have a path; those without are a fault, or a warning where ``allow_missing`` leaves some."""
    path, twice = where
    faults.add_rows(file, "whose image lies in two places (move one of them out of the root)", twice != "", twice)
    missing = path.isna()
    what = f"{missing.sum()} of {len(path)} images"
    if missing.any() and allow_missing and not missing.all():
        log.warning("%s: %s are missing; their rows are left out", file, what)
    elif missing.any():
        way_out = "complete the download (there or in images* below it)"
        way_out += "" if allow_missing else ", or set allow_missing=true"
        faults.add(file, f"{what} are not in the folder: {first_of(image[missing])}; {way_out}")
    return ~missing


def _check_findings(file: Path, findings: pd.Series, faults: Faults) -> None:
    """Notes rows whose findings ("Effusion|Mass") have a name NIH does not use, or contradict themselves."""
    parts = {text: text.split("|") for text in findings.unique()}
    unknown = dict.fromkeys(name for names in parts.values() for name in names if name not in NIH14.names)
    strange = [text for text, names in parts.items() if unknown.keys() & set(names)]
    hints = ", ".join(f"'{name}'{closest(name, tuple(NIH14.names))}" for name in list(unknown)[:3])
    faults.add_rows(file, f"with a finding NIH does not have ({hints})", findings.isin(strange), findings)
    torn = [text for text, names in parts.items() if "No Finding" in names and len(names) > 1]
    faults.add_rows(file, "with 'No Finding' beside another finding", findings.isin(torn), findings)


def by_value(column: pd.Series, function: Callable[[str], object]) -> pd.Series:
    """``function`` of each value, called once a distinct one: 112,120 images have 30,805 patients and 100 ages."""
    values = column.tolist()  # not map: reading a text column one by one costs more than the functions
    known = {value: function(value) for value in set(values)}
    return pd.Series([known[value] for value in values], index=column.index)


def hashed_split(patient: pd.Series, sft_share: float = 0.7, in_test: pd.Series | None = None) -> pd.Series:
    """The split of each row [N], by its patient's number alone; ``in_test`` [N], where given, decides on test."""
    bucket = by_value(patient, lambda p: int(hashlib.sha1(p.encode()).hexdigest(), 16) % 10)
    to_sft = by_value(patient, lambda p: _fraction(f"sft:{p}") < sft_share)
    train = pd.Series("rl", index=patient.index).mask(to_sft, "sft")
    return train.mask(bucket == 7, "val").mask(bucket >= 8 if in_test is None else in_test, "test")


def _fraction(key: str) -> float:
    """A number in [0, 1) that depends on ``key`` alone."""
    return int.from_bytes(hashlib.sha1(key.encode()).digest()[:6], "big") / 2**48
