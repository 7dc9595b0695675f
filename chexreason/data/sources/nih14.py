"""NIH ChestX-ray14 as the NIH Clinical Center distributes it, or as people resize it.

Cite Wang et al., ChestX-ray8, CVPR 2017; images: https://nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.crosswalk import nih_to_chexpert
from chexreason.progress import Track

log = logging.getLogger(__name__)
CSV_NAMES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
CSV_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
LIST_NAMES = {"train": "train_val_list.txt", "test": "test_list.txt"}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
SPLITS = ("official", "patient_hash")
SHOWN = 5


@dataclass(frozen=True)
class NIH14Source:
    """The rows of ChestX-ray14 with CheXpert labels.

    ``split="official"`` follows the vendor's two lists and takes val from the training patients; ``"patient_hash"``
    needs no list: sha1(patient id) mod 10 is 0-6 train, 7 val, 8-9 test. Training patients go to ``sft`` with
    probability ``sft_share``, else to ``rl``. ``n_per_split`` draws that many studies of a split, by ``seed``.
    ``allow_missing`` keeps the rows whose image is present (a partial download).
    """

    name: str
    root: Path
    split: str = "official"
    sft_share: float = 0.7
    include_opacity: bool = True
    n_per_split: Mapping[str, int] | None = None
    allow_missing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"NIH split='{self.split}'; choose one of: {', '.join(SPLITS)}")
        if not 0.0 <= self.sft_share <= 1.0:
            raise ValueError(f"sft_share={self.sft_share} is not in 0..1")

    @property
    def image_root(self) -> Path:
        """The vendor's folder, absolute: images stay where they are."""
        return Path(self.root).resolve()

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters, the hash of the csv and of the split lists, and the number of images found."""
        files = [self._csv(), *(self._lists().values() if self.split == "official" else ())]
        return {
            "source": "nih14",
            "name": self.name,
            "split": self.split,
            "sft_share": self.sft_share,
            "include_opacity": self.include_opacity,
            "n_per_split": dict(self.n_per_split) if self.n_per_split else None,
            "allow_missing": self.allow_missing,
            "seed": self.seed,
            "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
            "images_found": len(_index(self.image_root)),
        }

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; nothing is written.

        Raises FileNotFoundError on a missing csv, list or image and ValueError on another column or finding.
        """
        table = self._present(_read_csv(self._csv()))
        patient = table["Patient ID"].str.lstrip("0")  # the split hashes the plain number
        stem = table["Image Index"].map(lambda name: Path(name).stem)
        marks = nih_to_chexpert(table["Finding Labels"], self.include_opacity)  # [N, 14]
        frame = pd.DataFrame(
            {
                "study_id": self.name + ":" + stem,
                "patient_id": "nih14:" + patient,  # by vendor: resized copies of the set share their patients
                "dataset": self.name,
                "split": self._split(table["Image Index"], patient),
                "path": table["path"],
                "view": table["View Position"],
                "age": table["Patient Age"].map(_years),
                "sex": table["Patient Gender"].where(table["Patient Gender"].isin(["M", "F"]), ""),
                **{label: marks[:, i] for i, label in enumerate(CHEXPERT14.labels)},
            }
        )
        return self._draw(frame.reset_index(drop=True))

    def _csv(self) -> Path:
        for name in CSV_NAMES:
            if (self.image_root / name).is_file():
                return self.image_root / name
        raise FileNotFoundError(f"no {' or '.join(CSV_NAMES)} in {self.image_root}; download it beside the images")

    def _lists(self) -> dict[str, Path]:
        lists = {part: self.image_root / name for part, name in LIST_NAMES.items()}
        for path in lists.values():
            if not path.is_file():
                raise FileNotFoundError(f"no {path}; download the official list, or set split=patient_hash")
        return lists

    def _present(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows whose image exists, with its path relative to the root; the csv says .png whatever the files are."""
        index = _index(self.image_root)
        path = table["Image Index"].map(lambda name: index.get(Path(name).stem))
        missing = table["Image Index"][path.isna()]
        if len(missing) and not self.allow_missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(table)} images of {self._csv().name} are not under {self.image_root}: "
                f"{', '.join(missing[:SHOWN])}...; complete the download, or set allow_missing=true to do without them"
            )
        if len(missing):
            log.warning("%s: %d of %d images are missing; their rows are left out", self.name, len(missing), len(table))
        return table.assign(path=path)[path.notna()]

    def _split(self, image: pd.Series, patient: pd.Series) -> pd.Series:
        bucket = patient.map(lambda p: int(hashlib.sha1(p.encode()).hexdigest(), 16) % 10)
        test = bucket >= 8
        if self.split == "official":
            listed = {part: set(path.read_text().split()) for part, path in self._lists().items()}
            test = image.isin(listed["test"])
            nowhere = image[~test & ~image.isin(listed["train"])]
            if len(nowhere):
                raise ValueError(f"{len(nowhere)} images are in neither official list: {', '.join(nowhere[:SHOWN])}")
        to_sft = patient.map(lambda p: _fraction(f"sft:{p}") < self.sft_share)
        train = pd.Series("rl", index=patient.index).mask(to_sft, "sft")
        return train.mask(bucket == 7, "val").mask(test, "test")

    def _draw(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keeps ``n_per_split`` studies of each split it names, chosen by hash: the same whatever else is present."""
        keep = pd.Series(True, index=frame.index)
        for split, n in (self.n_per_split or {}).items():
            inside = frame["study_id"][frame["split"] == split]
            if n > len(inside):
                raise ValueError(f"n_per_split asks for {n} studies of '{split}'; '{self.name}' has {len(inside)}")
            order = inside.map(lambda study: _fraction(f"{self.seed}:{study}")).sort_values(kind="stable")
            keep[order.index[n:]] = False
        return frame[keep].reset_index(drop=True)


def _read_csv(path: Path) -> pd.DataFrame:
    # In copies whose rows end with a comma, pandas would take the first column for an index, were it not told.
    table = pd.read_csv(
        path, dtype=str, keep_default_na=False, index_col=False, usecols=lambda name: name in CSV_COLUMNS
    )
    missing = [name for name in CSV_COLUMNS if name not in table]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}: not the vendor's file, or edited?")
    return table


def _index(root: Path) -> dict[str, str]:
    """Stem -> posix path relative to ``root`` of each image in images/, images_*/, images_*/images/ and the root."""
    folders = [root, root / "images", *sorted(root.glob("images_*")), *sorted(root.glob("images_*/images"))]
    index: dict[str, str] = {}
    for folder in filter(Path.is_dir, folders):
        prefix = folder.relative_to(root)
        with os.scandir(folder) as entries:
            for name in sorted(entry.name for entry in entries):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in IMAGE_SUFFIXES:
                    index.setdefault(stem, (prefix / name).as_posix())
    return index


def _fraction(key: str) -> float:
    """A number in [0, 1) that depends on ``key`` alone."""
    return int.from_bytes(hashlib.sha1(key.encode()).digest()[:6], "big") / 2**48


def _years(age: str) -> float:
    """Age in years of "57" or, as in the 2017 file, "058Y", "011M", "003D"; NaN where it is none."""
    number, unit = (age[:-1], age[-1:]) if age[-1:] in "YMD" else (age, "Y")
    if not number.isdigit():
        return float("nan")
    return float(int(number) // {"Y": 1, "M": 12, "D": 365}[unit])
