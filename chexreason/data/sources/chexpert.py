"""CheXpert v1.0 and v1.0-small as Stanford AIMI distributes them, and the 500-study test set (under an agreement).

Cite Irvin et al., CheXpert, AAAI 2019. The test set's labels are the majority of five radiologists:
https://github.com/rajpurkarlab/cheXpert-test-set-labels (groundtruth.csv, one row a study), or test_labels.csv beside
the images (one row an image).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chexreason.data.manifest import parameters
from chexreason.data.sources.columns import Faults, VendorCsv, sha256_by_name, years
from chexreason.data.sources.tree import VendorFolder, elsewhere
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import Track

log = logging.getLogger(__name__)
_CSV_NAMES = {"train": ("train.csv",), "valid": ("valid.csv",), "test": ("groundtruth.csv", "test_labels.csv")}
_SPLITS = {"train": "train", "valid": "val", "test": "test"}  # valid is 200 studies read by three radiologists
_FACTS = ("Sex", "Age", "Frontal/Lateral", "AP/PA")  # of train.csv and valid.csv
# CheXpert-v1.0, CheXpert-v1.0-small, CheXpert; in chexpertchestxrays-u20210408, "CheXpert-v1.0 batch 2 (train 1)"
_RELEASES = "[Cc]he[Xx]pert*"
_VIEW = r"view\d+_(?:frontal|lateral)\.(?:jpg|jpeg|png)"
_STUDY_PATH = r"(?:.*/)?(?P<part>train|valid|test)/(?P<patient>patient\d+)/(?P<study>study\d+)"
_OUTSIDE = r"(?:^|.*/)\.\.(?:/.*|$)|^/.*|.*[\\:].*"  # "..", an absolute path, a Windows path


@dataclass(frozen=True)
class CheXpertSource(VendorFolder):
    """The images of the ``parts`` (train, valid, test) of CheXpert, one row an image.

    ``root`` is the release's folder or its parent: the csv's paths begin with the release's name, whatever the folder
    is called now, and whether one folder holds the patients of train or batches do. ``frontal_only`` leaves the lateral
    images out: 518 of the test set remain. ``test_csv`` names the test set's labels where they are in another folder.
    The splits are train, val (the vendor's valid) and test.
    """

    parts: Sequence[str] = ("test",)
    frontal_only: bool = True
    test_csv: Path | None = None

    def __post_init__(self) -> None:
        wrong = [part for part in self.parts if part not in _CSV_NAMES]
        if isinstance(self.parts, str) or wrong or not self.parts:
            raise ValueError(f"CheXpert parts={self.parts!r}; write a list of: {', '.join(_CSV_NAMES)}")

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters, the release's folder name, and the hashes of the csv files read."""
        return {
            "source": "chexpert",
            **parameters(self, "root", "test_csv"),
            "release": sorted({f.parent.name if f.name == p else f.name for p in self.parts for f in self._images(p)}),
            "sha256": sha256_by_name(self._csv(part) for part in self.parts),
        }

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; nothing is written and no image is opened.

        Raises FileNotFoundError on an absent csv and ValueError with all faults of all of them.
        """
        faults = Faults(f"CheXpert set '{self.name}' in {self.image_root}")
        read = [self._read(part, self._csv(part), faults) for part in self.parts]
        faults.stop()
        frame = pd.concat(read, ignore_index=True)
        chosen = frame[frame["path"].str.contains("_frontal.", regex=False)] if self.frontal_only else frame
        if chosen.empty:
            raise ValueError(f"'{self.name}': none of the {len(frame)} images is frontal; set frontal_only=false")
        log.info("%s: frontal_only=%s keeps %d of %d images", self.name, self.frontal_only, len(chosen), len(frame))
        return chosen.reset_index(drop=True)

    def _read(self, part: str, file: Path, faults: Faults) -> pd.DataFrame:
        facts, renamed = (_FACTS, {}) if part != "test" else ((), {"Study": "Path"})
        table = VendorCsv(file, ("Path", *facts, *CHEXPERT14.labels), faults, renamed)
        by_study = part == "test" and "study" in map(str.casefold, table.header)
        for root in (self.image_root, Path(self.root).absolute()):
            table.rows["Path"] = table.rows["Path"].str.removeprefix(f"{root}/")
        where = _located(table, "Study" if by_study else "Path", part)
        known = table.rows.reindex(columns=list(_FACTS), fill_value="")
        rows = pd.concat([known, where, table.marks(CHEXPERT14.labels)], axis=1)
        if by_study:
            rows = self._with_views(rows, table)
        return self._frame(rows, part, self._folder_of(rows["patient"], part, table))

    def _with_views(self, rows: pd.DataFrame, table: VendorCsv) -> pd.DataFrame:
        """One row for each image found in the folder of each study: groundtruth.csv lists studies only."""
        folders = rows["patient"] + "/" + rows["study"]
        bases = self._images("test")
        seen = folders.map(lambda folder: {path.name for base in bases for path in (base / folder).glob("view*")})
        images = seen.map(lambda names: sorted(name for name in names if re.fullmatch(_VIEW, name)))
        bad = (images.str.len() == 0) & (rows["patient"] != "")  # a path that did not fit is a fault already
        table.faults.add_rows(table.file, f"without an image under {bases[0]}", bad, folders)
        return rows.assign(view=images).explode("view", ignore_index=True).dropna(subset="view")

    def _folder_of(self, patient: pd.Series, part: str, table: VendorCsv) -> pd.Series:
        """The folder under the root with each patient's images [N]; a patient in two folders is a fault."""
        held: dict[str, list[str]] = {}
        inside = [folder.relative_to(self.image_root).as_posix() for folder in self._images(part)]
        for folder in inside:
            for name in os.listdir(self.image_root / folder):
                held.setdefault(name, []).append(folder)
        where = patient.map(lambda p: held.get(p, inside[:1]))
        several = where.str.len() > 1
        table.faults.add_rows(table.file, "whose patient is in two folders", several, patient + where.str.join(", "))
        return where.str[0]

    def _frame(self, rows: pd.DataFrame, part: str, inside: pd.Series) -> pd.DataFrame:
        exam = rows["patient"] + "/" + rows["study"]
        turned = rows["view"].str.extract(r"_(frontal|lateral)\.", expand=False).str.upper()
        return pd.DataFrame(
            {
                "study_id": self.name + ":" + exam + "/" + rows["view"].str.rsplit(".", n=1).str[0],
                "patient_id": "chexpert:" + rows["patient"],
                "dataset": self.name,
                "split": _SPLITS[part],
                "path": inside + "/" + exam + "/" + rows["view"],
                "view": rows["AP/PA"].str.upper().where(rows["AP/PA"] != "", turned),
                "age": years(rows["Age"]),
                "sex": rows["Sex"].map({"Male": "M", "Female": "F"}).fillna(""),  # one is "Unknown"
                "exam_id": "chexpert:" + exam,
                **rows[list(CHEXPERT14.labels)],
            }
        )

    def _folders(self) -> list[Path]:
        """The root and the releases in it; their batches."""
        found = [self.image_root, *self.image_root.glob(_RELEASES), *self.image_root.glob(f"{_RELEASES}/{_RELEASES}")]
        return sorted(path for path in found if path.is_dir())

    def _csv(self, part: str) -> Path:
        """The csv of ``part``; of the test set's two, groundtruth.csv is the published truth and comes first."""
        if part == "test" and self.test_csv is not None:
            if not Path(self.test_csv).is_file():
                raise FileNotFoundError(f"no test_csv at {self.test_csv}")
            return Path(self.test_csv).resolve()
        for name in _CSV_NAMES[part]:
            found = [folder / name for folder in self._folders() if (folder / name).is_file()]
            if len(found) > 1:
                raise ValueError(
                    f"{name} lies in {' and '.join(str(f.parent) for f in found)}; set root to one of them"
                )
            if found:
                return found[0]
        names = " or ".join(_CSV_NAMES[part])
        hint = "; or name it in test_csv" if part == "test" else ""
        hint = elsewhere(self.image_root, _CSV_NAMES[part], "; set root to them") + hint
        raise FileNotFoundError(f"no {names} in {self.image_root} or its CheXpert* folders{hint}")

    def _images(self, part: str) -> list[Path]:
        """The folders that hold the patients of ``part``: the one beside the csv, or the others, and the batches."""
        own, folders = self._csv(part).parent, self._folders()
        beside = [own] if own in folders and (own / part).is_dir() else folders
        found = [folder / part for folder in beside if (folder / part).is_dir()]
        found += [folder for folder in folders if f" ({part}" in folder.name and not (folder / part).is_dir()]
        if not found:
            hint = f"; unpack {part} beside {own} and set root to {own.parent}" if " batch " in own.name else ""
            raise FileNotFoundError(f"no folder {part}/ in {self.image_root} or its CheXpert* folders{hint}")
        return found


def _located(table: VendorCsv, key: str, part: str) -> pd.DataFrame:
    """Patient, study and (of an image) view of each path; one that does not fit or leads out of the root is a fault."""
    path = table.rows["Path"].rename(key)
    pattern = rf"{_STUDY_PATH}/?" if key == "Study" else rf"{_STUDY_PATH}/(?P<view>{_VIEW})"
    outside = path.str.fullmatch(_OUTSIDE)
    found = path.str.extract(rf"^{pattern}$")
    table.faults.add_rows(table.file, f"with a {key} that leads out of the root", outside, path)
    table.faults.add_rows(
        table.file, f"with a {key} unlike {part}/patient00001/study1", ~outside & (found["part"] != part), path
    )
    table.no_repeats(path)
    return found.drop(columns="part").fillna("")
