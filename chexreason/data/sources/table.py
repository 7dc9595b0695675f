"""Any CSV with one image a row and marks 1, 0, -1 or blank in columns of CheXpert labels."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import Track

MARKS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": float("nan")}


@dataclass(frozen=True)
class TableSource:
    """The rows of ``csv``, whose ``path_column`` is relative to ``root`` (default: the folder of the csv).

    Every row is in ``split``, or in the one its ``split_column`` names. ``label_columns`` maps our labels to the csv's
    columns (default: the columns spelled like CheXpert's labels); labels without a column are blank. Patients are told
    apart by ``name`` and ``patient_column``.
    """

    name: str
    csv: Path
    root: Path | None = None
    path_column: str = "path"
    patient_column: str = "patient_id"
    split: str = "test"
    split_column: str | None = None
    label_columns: Mapping[str, str] | None = None
    view_column: str | None = None
    age_column: str | None = None
    sex_column: str | None = None

    @property
    def image_root(self) -> Path:
        """The absolute folder that paths are relative to: images stay where they are."""
        return Path(self.root if self.root is not None else Path(self.csv).parent).resolve()

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters and the hash of the csv."""
        return {
            "source": "table",
            "name": self.name,
            "csv": Path(self.csv).name,
            "csv_sha256": hashlib.sha256(self._csv().read_bytes()).hexdigest(),
            "path_column": self.path_column,
            "patient_column": self.patient_column,
            "split": self.split,
            "split_column": self.split_column,
            "label_columns": dict(self.label_columns) if self.label_columns is not None else None,
            "view_column": self.view_column,
            "age_column": self.age_column,
            "sex_column": self.sex_column,
        }

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; nothing is written.

        Raises FileNotFoundError on a missing csv and ValueError, with the way out, on another column, label or mark.
        """
        table = pd.read_csv(self._csv(), dtype=str, keep_default_na=False, index_col=False)
        path = self._filled(table, self.path_column)
        return pd.DataFrame(
            {
                "study_id": self.name + ":" + path.map(lambda p: Path(p).with_suffix("").as_posix()),
                "patient_id": self.name + ":" + self._filled(table, self.patient_column),
                "dataset": self.name,
                "split": self._filled(table, self.split_column) if self.split_column else self.split,
                "path": path,
                "view": self._optional(table, self.view_column),
                "age": pd.to_numeric(self._optional(table, self.age_column), errors="coerce"),
                "sex": self._optional(table, self.sex_column).str.upper().str[:1].map(_sex),
                **self._labels(table),
            }
        )

    def _csv(self) -> Path:
        path = Path(self.csv)
        if not path.is_file():
            raise FileNotFoundError(f"no csv at {path} for data set '{self.name}'")
        return path

    def _column(self, table: pd.DataFrame, column: str) -> pd.Series:
        if column not in table:
            hint = _closest(column, table.columns)
            raise ValueError(f"{self.csv} has no column '{column}'{hint}; its columns: {', '.join(table.columns)}")
        return table[column].str.strip()

    def _filled(self, table: pd.DataFrame, column: str) -> pd.Series:
        values = self._column(table, column)
        empty = (values == "").to_numpy()
        if empty.any():
            raise ValueError(
                f"{self.csv}, line {int(empty.argmax()) + 2}: column '{column}' is empty; fill or drop the row"
            )
        return values

    def _optional(self, table: pd.DataFrame, column: str | None) -> pd.Series:
        return self._column(table, column) if column else pd.Series("", index=table.index, dtype="str")

    def _labels(self, table: pd.DataFrame) -> dict[str, pd.Series]:
        columns = self.label_columns
        if columns is None:
            columns = {label: label for label in CHEXPERT14.labels if label in table}
        if not columns:
            raise ValueError(
                f"{self.csv} has no column spelled like a CheXpert label; name them in label_columns "
                f"(ours: theirs); its columns: {', '.join(table.columns)}"
            )
        for label in columns:
            if label not in CHEXPERT14.labels:
                hint = _closest(label, CHEXPERT14.labels)
                raise ValueError(f"label_columns: unknown label '{label}'{hint}; ours: {', '.join(CHEXPERT14.labels)}")
        blank = pd.Series(float("nan"), index=table.index)
        return {label: self._marks(table, columns[label]) if label in columns else blank for label in CHEXPERT14.labels}

    def _marks(self, table: pd.DataFrame, column: str) -> pd.Series:
        values = self._column(table, column)
        bad = ~values.isin(list(MARKS)).to_numpy()
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"{self.csv}, line {row + 2}: column '{column}' holds '{values.iloc[row]}'; write 1 (present), "
                "0 (absent), -1 (uncertain) or nothing (not labelled)"
            )
        return values.map(MARKS).astype("float64")


def _sex(letter: str) -> str:
    return letter if letter in ("M", "F") else ""


def _closest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'X'?)" for the known name closest to ``name``, or nothing."""
    lower = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), list(lower), n=1)
    return f" (did you mean '{lower[close[0]]}'?)" if close else ""
