"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 as PhysioNet distributes it (credentialed: it never leaves the machine).

Cite Johnson et al., MIMIC-CXR-JPG, arXiv 1901.07042; https://physionet.org/content/mimic-cxr-jpg/.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chexreason.data.manifest import READERS, parameters
from chexreason.data.sources.columns import Faults, VendorCsv, sha256_by_name
from chexreason.data.sources.tree import VendorFolder, elsewhere
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import Track

log = logging.getLogger(__name__)
METADATA = "mimic-cxr-2.0.0-metadata.csv"  # 2.1.0 keeps these names and adds one file
SPLIT = "mimic-cxr-2.0.0-split.csv"
RADIOLOGIST = "mimic-cxr-2.1.0-test-set-labeled.csv"
LABEL_FILES = {
    "chexpert": "mimic-cxr-2.0.0-chexpert.csv",
    "negbio": "mimic-cxr-2.0.0-negbio.csv",
    "radiologist": RADIOLOGIST,
}
RADIOLOGIST_NAMES = {"Airspace Opacity": "Lung Opacity", "No Findings": "No Finding"}  # theirs: ours; the rest agree
_SPLITS = ("train", "validate", "test")
DICOM_ID = r"[\w-]+"  # becomes a file name: neither "/" nor ".." may be in it


@dataclass(frozen=True)
class MIMICCXRSource(VendorFolder):
    """The images of MIMIC-CXR-JPG in ``views`` (null: all) with the labels that ``labeler`` gave their study.

    ``labeler`` is "chexpert" or "negbio", both text-mined, or "radiologist": the studies of the test set that 2.1.0
    labels by hand. Splits are the vendor's train, validate and test; ``readers=true`` marks the whole set as a second
    labelling of images of another set. The release has neither sex nor age. A study its labeler could not read has no
    row in the csv: all its marks are blank. Paths follow from the identifiers; no folder is looked into.
    """

    labeler: str = "chexpert"
    views: Sequence[str] | None = ("AP", "PA")
    readers: bool = False

    def __post_init__(self) -> None:
        if self.labeler not in LABEL_FILES:
            raise ValueError(f"MIMIC-CXR labeler='{self.labeler}'; choose one of: {', '.join(LABEL_FILES)}")
        if isinstance(self.views, str) or (self.views is not None and not self.views):
            raise ValueError(f"views={self.views!r}; write a list like [AP, PA], or null for every view")

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters, the release found, and the hashes of the csv files read."""
        return {
            "source": "mimic_cxr",
            **parameters(self, "root"),
            "release": "2.1.0" if self._find(RADIOLOGIST) else "2.0.0",
            **({"crosswalk": RADIOLOGIST_NAMES} if self.labeler == "radiologist" else {}),
            "sha256": sha256_by_name(self._files()),
        }

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; nothing is written and no image is opened.

        Raises FileNotFoundError naming every absent csv, and ValueError with all faults of all of them.
        """
        metadata, split, labels = self._files()
        faults = Faults(f"MIMIC-CXR-JPG set '{self.name}' in {self.image_root}")
        images = _read_images(metadata, faults)
        splits = _read_splits(split, faults)
        marks = _read_marks(labels, self.labeler, faults)
        faults.stop()
        at = splits.reindex(images["dicom_id"]).set_axis(images.index)
        dicom = pd.Series(splits.index, dtype=object)  # isin of text is slow
        lost = ~dicom.isin(images["dicom_id"].tolist())
        faults.add_rows(split, "with a dicom_id that the metadata lacks", lost, dicom)
        _check_joins(images, at, marks, metadata, labels, faults)
        faults.stop()
        images = images.assign(split=READERS if self.readers else at["split"])
        return self._frame(self._selected(images, marks), marks)

    def _frame(self, images: pd.DataFrame, marks: pd.DataFrame) -> pd.DataFrame:
        subject, study, dicom = images["subject_id"], images["study_id"], images["dicom_id"]
        raw = marks[list(CHEXPERT14.labels)].reindex(study).set_axis(images.index)  # [N, 14]
        if blank := int((marks.index.get_indexer(study) < 0).sum()):
            counts = (self.name, blank, len(raw), self.labeler)
            log.warning("%s: %d of %d images are of studies that '%s' left out", *counts)
        return pd.DataFrame(
            {
                "study_id": self.name + ":" + dicom,
                "patient_id": "mimic:" + subject,
                "dataset": self.name,
                "split": images["split"],
                "path": "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + dicom + ".jpg",
                "view": images["view"],
                "age": float("nan"),
                "sex": "",
                "exam_id": "mimic:s" + study,
                **raw,
            }
        ).reset_index(drop=True)

    def _selected(self, images: pd.DataFrame, marks: pd.DataFrame) -> pd.DataFrame:
        """The images in the views asked for; of the labelled studies alone where a radiologist labelled a part."""
        if self.labeler == "radiologist":
            images = images[images["study_id"].isin(marks.index)]
        chosen = images if self.views is None else images[images["view"].isin(list(self.views))]
        if chosen.empty:
            counts = ", ".join(f"{view or '(blank)'} {n}" for view, n in images["view"].value_counts().items())
            raise ValueError(f"'{self.name}' has no image in views={list(self.views or ())}; views it has: {counts}")
        log.info("%s: %d of %d images are in views=%s", self.name, len(chosen), len(images), self.views)
        return chosen

    def _find(self, name: str) -> Path | None:
        """The csv ``name`` as shipped (.csv.gz) or unpacked."""
        found = (self.image_root / f"{name}.gz", self.image_root / name)
        return next((file for file in found if file.is_file()), None)

    def _files(self) -> tuple[Path, Path, Path]:
        names = (METADATA, SPLIT, LABEL_FILES[self.labeler])
        files = [self._find(name) for name in names]
        absent = [name for name, file in zip(names, files, strict=True) if file is None]
        if absent:
            hint = "; the labelled test set comes with release 2.1.0" if RADIOLOGIST in absent else ""
            hint += elsewhere(self.image_root, [*absent, *(f"{name}.gz" for name in absent)], "")
            raise FileNotFoundError(
                f"no {', '.join(absent)} (nor .gz) in {self.image_root}; root must be the folder of MIMIC-CXR-JPG "
                f"that holds them beside files/{hint}"
            )
        return files[0], files[1], files[2]  # type: ignore[return-value]


def _read_images(file: Path, faults: Faults) -> pd.DataFrame:
    """Identifiers and view of every image of the release."""
    table = VendorCsv(file, ("dicom_id", "subject_id", "study_id", "ViewPosition"), faults)
    dicom = table.named("dicom_id")
    faults.add_rows(file, "with a dicom_id that is no file name", ~dicom.str.fullmatch(DICOM_ID), dicom)
    table.no_repeats(dicom)
    numbers = {column: table.whole_numbers(column) for column in ("subject_id", "study_id")}
    return pd.DataFrame({"dicom_id": dicom, **numbers, "view": table.rows["ViewPosition"].str.upper()})


def _read_splits(file: Path, faults: Faults) -> pd.DataFrame:
    """Subject, study and split by dicom_id."""
    table = VendorCsv(file, ("dicom_id", "study_id", "subject_id", "split"), faults)
    table.no_repeats(table.rows["dicom_id"])
    split = table.words("split", _SPLITS)
    numbers = {column: table.whole_numbers(column) for column in ("subject_id", "study_id")}
    return pd.DataFrame({**numbers, "split": split}).set_axis(table.rows["dicom_id"])


def _read_marks(file: Path, labeler: str, faults: Faults) -> pd.DataFrame:
    """Marks [S, 14], and the subject where the csv names it, by study_id."""
    by_hand = labeler == "radiologist"
    identifiers = ("study_id",) if by_hand else ("subject_id", "study_id")
    table = VendorCsv(file, (*identifiers, *CHEXPERT14.labels), faults, RADIOLOGIST_NAMES if by_hand else None)
    numbers = {column: table.whole_numbers(column) for column in identifiers}
    table.no_repeats(numbers["study_id"])
    return table.marks(CHEXPERT14.labels).assign(**numbers).set_index("study_id")


def _check_joins(
    images: pd.DataFrame, at: pd.DataFrame, marks: pd.DataFrame, metadata: Path, labels: Path, faults: Faults
) -> None:
    """Notes where the three tables contradict one another; ``at`` [N] is the split's row of each image."""
    lost = at["split"].isna()
    faults.add_rows(metadata, "with a dicom_id that the split file lacks", lost, images["dicom_id"])
    other = ~lost & ((at["subject_id"] != images["subject_id"]) | (at["study_id"] != images["study_id"]))
    faults.add_rows(metadata, "with another subject or study than in the split file", other, images["dicom_id"])
    study = pd.Series(marks.index, dtype=object)
    if "subject_id" in marks:
        subject = images.drop_duplicates("study_id").set_index("study_id")["subject_id"].reindex(study)
        other = subject.notna() & (subject.to_numpy() != marks["subject_id"]).to_numpy()
        faults.add_rows(labels, "with another subject than in the metadata", other.reset_index(drop=True), study)
    faults.add_rows(labels, "with a study_id that the metadata lacks", ~study.isin(images["study_id"].tolist()), study)
