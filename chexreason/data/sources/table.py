"""Any CSV with one image a row and marks 1, 0, -1 or blank in columns of findings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from chexreason.data.fingerprint import content_sha256
from chexreason.data.manifest import parameters
from chexreason.data.sources.columns import Faults, VendorCsv, any_mark, closest, header_of
from chexreason.data.sources.tree import located, without_suffix
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import Track

_ROUNDED = r"\d\.\d+[eE]\+\d+"  # "1.00000E+07": a spreadsheet has rounded the number


@dataclass(frozen=True)
class TableSource:
    """The rows of ``csv``, whose ``path_column`` is relative to ``root`` (default: the folder of the csv) or inside it.

    A path may lack its suffix, and a file's name its folder, where one file alone fits (``located``).
    Every row is in ``split``, or in the one its ``split_column`` names. ``label_columns`` maps our labels to the csv's
    columns (default: the columns spelled like CheXpert's labels), one or several each (``any_mark``); labels without a
    column are blank, and ``labelled_only`` leaves out rows that have no mark at all. A patient is named by
    ``patient_column`` and ``vendor`` (default: ``name``), which copies of one vendor's images share.
    """

    name: str
    csv: Path
    root: Path | None = None
    path_column: str = "path"
    patient_column: str = "patient_id"
    vendor: str | None = None
    split: str = "test"
    split_column: str | None = None
    label_columns: Mapping[str, str | Sequence[str]] | None = None
    labelled_only: bool = False
    view_column: str | None = None
    age_column: str | None = None
    sex_column: str | None = None

    def __post_init__(self) -> None:
        for label in self.label_columns or ():
            if label not in CHEXPERT14.labels:
                hint = closest(label, CHEXPERT14.labels)
                raise ValueError(f"label_columns: unknown label '{label}'{hint}; ours: {', '.join(CHEXPERT14.labels)}")

    @property
    def image_root(self) -> Path:
        """The absolute folder that paths are relative to: images stay where they are."""
        return Path(self.root if self.root is not None else Path(self.csv).parent).resolve()

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters and the hash of the csv."""
        columns = {label: _listed(names) for label, names in (self.label_columns or {}).items()}
        csv = {"csv": Path(self.csv).name, "csv_sha256": content_sha256(self._csv().read_bytes())}
        return {"source": "table", **parameters(self, "root"), **csv, "label_columns": columns or None}

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; nothing is written.

        Raises FileNotFoundError on a missing csv and ValueError that lists all its faults.
        """
        faults = Faults(f"data set '{self.name}'")
        labels = self._label_columns()
        optional = (self.split_column, self.view_column, self.age_column, self.sex_column)
        findings = list(dict.fromkeys(chain.from_iterable(labels.values())))
        named = dict.fromkeys((self.path_column, self.patient_column, *filter(None, optional), *findings))
        table = VendorCsv(self._csv(), list(named), faults)
        marks = table.marks(findings)
        study, path = self._paths(table.rows, faults)
        self._filled(table.rows, self.patient_column, faults)
        rounded = table.rows[self.patient_column].str.fullmatch(_ROUNDED)
        fault = f"with a {self.patient_column} rounded by a spreadsheet"
        faults.add_rows(table.file, fault, rounded, table.rows[self.patient_column])
        patient = table.identifiers(self.patient_column)
        split = self._filled(table.rows, self.split_column, faults) if self.split_column else self.split
        faults.stop()
        blank = pd.Series("", index=study.index, dtype="str")
        view, age, sex = (table.rows[column] if column else blank for column in optional[1:])
        rows = pd.DataFrame(
            {
                "study_id": self.name + ":" + study,
                "patient_id": (self.vendor or self.name) + ":" + patient,
                "dataset": self.name,
                "split": split,
                "path": path,
                "view": view,
                "age": pd.to_numeric(age, errors="coerce"),
                "sex": sex.str.upper().str.extract("^([MF])", expand=False).fillna(""),
                **{label: any_mark(marks[labels.get(label, [])].to_numpy()) for label in CHEXPERT14.labels},
            }
        )
        return self._labelled(rows) if self.labelled_only else rows

    def _csv(self) -> Path:
        path = Path(self.csv)
        if not path.is_file():
            raise FileNotFoundError(f"no csv at {path} for data set '{self.name}'")
        return path

    def _label_columns(self) -> dict[str, list[str]]:
        """The columns of each label; raises ValueError where the csv has none."""
        if self.label_columns is not None:
            return {label: _listed(names) for label, names in self.label_columns.items()}
        header = header_of(self._csv())
        spelled = {name.strip().casefold() for name in header}
        found = {label: [label] for label in CHEXPERT14.labels if label.casefold() in spelled}
        if not found:
            raise ValueError(
                f"{self.csv} has no column spelled like a CheXpert label; name them in label_columns (ours: theirs); "
                f"its columns: {', '.join(header)}"
            )
        return found

    def _paths(self, table: pd.DataFrame, faults: Faults) -> tuple[pd.Series, pd.Series]:
        """The path of each row without its suffix, which names the study, and the file of each row."""
        written = self._filled(table, self.path_column, faults)
        path = written.map(self._inside).astype("str")
        outside = path.map(lambda p: os.path.isabs(p) or p.split(os.sep)[0] == os.pardir)
        faults.add_rows(self._csv(), f"whose {self.path_column} leads out of {self.image_root}", outside, written)
        study = path.map(without_suffix)
        file, two = located(self.image_root, path)
        fault = f"whose {self.path_column} fits several files (write which)"
        faults.add_rows(self._csv(), fault, two != "", written + " = " + two)
        again = (study.duplicated() | file.duplicated()) & (written != "")
        faults.add_rows(self._csv(), f"that repeat a {self.path_column} (suffix aside)", again, written)
        return study, file

    def _inside(self, path: str) -> str:
        """``path`` from the root on, also where it is absolute and names the root by a link."""
        path = os.path.normpath(path)
        roots = (self.image_root, Path(self.root if self.root is not None else Path(self.csv).parent).absolute())
        return next((os.path.relpath(path, root) for root in roots if path.startswith(f"{root}{os.sep}")), path)

    def _filled(self, table: pd.DataFrame, column: str, faults: Faults) -> pd.Series:
        faults.add_rows(self._csv(), f"with an empty {column}", table[column] == "", table[self.path_column])
        return table[column]

    def _labelled(self, rows: pd.DataFrame) -> pd.DataFrame:
        marked = rows[list(CHEXPERT14.labels)].notna().any(axis=1)
        if not marked.any():
            raise ValueError(f"{self.csv} has no mark in any of its {len(rows)} rows: see label_columns")
        return rows[marked].reset_index(drop=True)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
