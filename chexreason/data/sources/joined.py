"""Several hospitals as one set, and the vendors whose release is several tables: PadChest and VinDr-CXR.

PadChest (BIMCV, after a form): Bustos et al., Medical Image Analysis 2020. VinDr-CXR (PhysioNet, credentialed): Nguyen
et al., Scientific Data 2022. The names of their files and columns are known from public descriptions alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chexreason.data.prepare import Source
from chexreason.data.sources.table import TableSource
from chexreason.data.sources.tree import found
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.crosswalk import names_of
from chexreason.progress import Track

PADCHEST_CSV = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
PROJECTIONS = ("PA", "AP", "AP_horizontal", "L", "COSTAL", "EXCLUDE")


@dataclass(frozen=True)
class JoinedSource:
    """The rows of ``hospitals`` (name: source) as one set, without those ``without``.

    Patients keep their vendor, so the leakage guard knows them. A label that a hospital never judges is blank in its
    rows: the label policy of a joined set has to mask blanks. Where a hospital's blank means absent (MIMIC-CXR),
    ``blank_is_absent`` names it, and blanks of the labels that it judges become 0.
    """

    name: str
    hospitals: Mapping[str, Source]
    without: Sequence[str] = ()
    blank_is_absent: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in (*self.without, *self.blank_is_absent):
            if name not in self.hospitals:
                raise ValueError(f"there is no hospital '{name}' in '{self.name}': it has {', '.join(self.hospitals)}")
        if not self._taken():
            raise ValueError(f"'{self.name}' leaves out all of its hospitals")
        if len({source.image_root is None for source in self._taken().values()}) == 2:
            raise ValueError(f"'{self.name}' joins rendered films with files: join either")

    @property
    def image_root(self) -> Path | None:
        """The folder above those of all hospitals; None where they are rendered."""
        roots = [source.image_root for source in self._taken().values()]
        return Path(os.path.commonpath([root for root in roots if root is not None])) if all(roots) else None

    @property
    def provenance(self) -> dict[str, object]:
        """The provenance of each hospital."""
        parts = {name: dict(source.provenance) for name, source in self._taken().items()}
        return {"source": "joined", "hospitals": parts, "blank_is_absent": list(self.blank_is_absent)}

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; raises what a hospital's source raises."""
        frames = []
        for hospital, source in self._taken().items():
            rows = source.prepare(folder / hospital, progress)
            at = os.path.relpath(source.image_root or folder / hospital, self.image_root or folder)
            if hospital in self.blank_is_absent:
                judged = [label for label in CHEXPERT14 if rows[label].notna().any()]
                rows = rows.assign(**rows[judged].fillna(0.0))
            study = f"{self.name}:{hospital}/" + rows["study_id"].str.replace(r"^[^:]*:", "", regex=True)
            path = rows["path"].map(lambda path, at=at: os.path.normpath(os.path.join(at, path)))
            frames.append(rows.assign(study_id=study, dataset=self.name, path=path))
        joined = pd.concat(frames, ignore_index=True)
        text = [name for name in ("signs", "exam_id") if name in joined]
        return joined.assign(**joined[text].fillna(""))

    def _taken(self) -> dict[str, Source]:
        return {name: source for name, source in self.hospitals.items() if name not in self.without}


def padchest(
    name: str,
    root: Path,
    views: Sequence[str] = ("PA", "AP", "AP_horizontal"),
    method: str | None = None,
    split: str = "patient_hash",
) -> TableSource:
    """PadChest: its csv (or .csv.gz) in ``root``, 16-bit PNG in any folder below; the films in ``views``.

    ``method`` keeps the reports that were labelled by a "Physician" or by the "RNN_model"; null keeps both.
    """
    if wrong := [view for view in views if view not in PROJECTIONS]:
        raise ValueError(f"PadChest views={wrong}; choose from: {', '.join(PROJECTIONS)}")
    return TableSource(
        name,
        found(Path(root), (PADCHEST_CSV, f"{PADCHEST_CSV}.gz")),
        Path(root),
        path_column="ImageID",
        patient_column="PatientID",
        vendor="padchest",
        split=split,
        list_column="Labels",
        label_columns=names_of("padchest"),
        keep={"Projection": list(views), **({"MethodLabel": [method]} if method else {})},
        exam_column="StudyID",
        view_column="Projection",
        sex_column="PatientSex_DICOM",
        birth_column="PatientBirth",
        date_column="StudyDate_DICOM",
    )


def vindr(name: str, root: Path, parts: Sequence[str] = ("train", "test")) -> JoinedSource:
    """VinDr-CXR: the DICOM films of train, by the majority of three readers, and of test, by a consensus of five.

    A tie of readers is -1 (uncertain). The boxes of ``annotations_*.csv`` are not read. VinDr tells no patient: each
    film counts as one. Films of train are sft, rl or val by their id.
    """
    tables = {
        part: TableSource(
            part,
            found(Path(root), (f"image_labels_{part}.csv", f"annotations/image_labels_{part}.csv")),
            Path(root),
            path_column="image_id",
            patient_column="image_id",
            vendor="vindr",
            split="train_hash" if part == "train" else part,
            reader_column="rad_id" if part == "train" else None,
            label_columns=names_of("vindr"),
        )
        for part in parts
    }
    return JoinedSource(name, tables)
