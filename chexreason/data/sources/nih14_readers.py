"""Google's radiologist re-labels of ChestX-ray14: a second labelling of images that the text-mined set has too.

Two studies, each with its own files: ``four_findings_expert_labels/{test,validation}_labels.csv`` (4,374 images,
adjudicated; Majkowska et al., Radiology 2020) and ``all_findings_expert_labels/test_labels.csv`` (810 images, majority
of three readers; Nabulsi et al., Scientific Reports 2021). Downloads may carry the folder's name in the file's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from chexreason.data.manifest import READERS, parameters
from chexreason.data.sources.columns import Faults, VendorCsv, any_mark, sha256_by_name
from chexreason.data.sources.nih14 import IMAGES, by_value, note_missing, patients_of
from chexreason.data.sources.tree import VendorFolder, films, located, without_suffix
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import Track

# Every column of findings and the CheXpert label it speaks about; "" has no CheXpert counterpart.
FOUR_FINDINGS = {
    "Fracture": "Fracture",
    "Pneumothorax": "Pneumothorax",
    "Airspace opacity": "Lung Opacity",
    "Nodule or mass": "Lung Lesion",
}
ALL_FINDINGS = {
    "Abnormal": "No Finding",  # inverted: a reader's "normal" is CheXpert's No Finding
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Effusion": "Pleural Effusion",
    "Infiltration": "",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Emphysema": "",
    "Fibrosis": "",
    "Pleural Thickening": "Pleural Other",
    "Hernia": "",
    "Other": "",
}
OPPOSITE = "Abnormal"
STUDIES: Mapping[str, Mapping[str, str]] = {"four_findings": FOUR_FINDINGS, "all_findings": ALL_FINDINGS}
IMAGE_COLUMN = {"four_findings": "Image Index", "all_findings": "Image ID"}
READER_COLUMN = "Reader ID"  # of the files that hold each reader's marks, several rows an image
MARKS = {"YES": 1.0, "NO": 0.0, "HEDGE": -1.0}


@dataclass(frozen=True)
class NIH14ReadersSource(VendorFolder):
    """The images of ``study`` ("four_findings" or "all_findings") under ``root``, in split ``readers``.

    ``csv`` names one or several label files of that study, relative to ``root`` or absolute. Images are those of
    ``NIH14Source`` in the same folder; ``allow_missing`` leaves out the rows of absent images.
    """

    csv: str | Sequence[str]
    study: str = "four_findings"
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if self.study not in STUDIES:
            raise ValueError(f"readers' study='{self.study}'; choose one of: {', '.join(STUDIES)}")

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters, the crosswalk, the hashes of the csv files and the number of images found."""
        return {
            "source": "nih14_readers",
            **parameters(self, "root", "csv"),
            "crosswalk": {
                f"{self.study}: {'not ' if column == OPPOSITE else ''}{column}": label
                for column, label in STUDIES[self.study].items()
            },
            "sha256": sha256_by_name(self._files()),
            "images_found": len(films(self.image_root, IMAGES)),
        }

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; nothing is written.

        Raises FileNotFoundError on a missing csv and ValueError that lists all faults of their content.
        """
        faults = Faults(f"data set '{self.name}'")
        rows = pd.concat([self._rows(file, faults) for file in self._files()], ignore_index=True)
        again = "', '".join(rows["study_id"][rows["study_id"].duplicated()][:3])
        if again:
            faults.add(self._files()[-1], f"images that an earlier row has (of another file, too): '{again}'")
        where = located(self.image_root, rows["study_id"].str.removeprefix(f"{self.name}:"), IMAGES)
        present = note_missing(self._files()[0], rows["study_id"], where, self.allow_missing, faults)
        faults.stop()
        return rows.assign(path=where[0])[present].reset_index(drop=True)

    def _files(self) -> list[Path]:
        files = [self.image_root / name for name in ([self.csv] if isinstance(self.csv, str) else self.csv)]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"no {file} for data set '{self.name}'; Google asks for a form, then sends it")
        return files

    def _rows(self, file: Path, faults: Faults) -> pd.DataFrame:
        findings, image_column = STUDIES[self.study], IMAGE_COLUMN[self.study]
        csv = VendorCsv(file, [image_column, "Patient ID", *findings], faults)
        if READER_COLUMN in csv.header:
            faults.add(file, "holds the marks of single readers; take test_labels.csv or validation_labels.csv")
        patient = patients_of(csv, csv.rows[image_column])
        image = by_value(csv.rows[image_column], without_suffix)
        marks = csv.marks(list(findings), MARKS)
        if OPPOSITE in marks:
            marks[OPPOSITE] = marks[OPPOSITE].map({1.0: 0.0, 0.0: 1.0, -1.0: -1.0})
        about = {label: [column for column, ours in findings.items() if ours == label] for label in CHEXPERT14.labels}
        return pd.DataFrame(
            {
                "study_id": self.name + ":" + image,
                "patient_id": "nih14:" + patient,
                "dataset": self.name,
                "split": READERS,
                "view": "",
                "age": np.nan,
                "sex": "",
                **{label: any_mark(marks[columns].to_numpy()) for label, columns in about.items()},
            }
        )
