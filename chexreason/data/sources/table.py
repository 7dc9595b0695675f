"""Any CSV with one image a row and marks 1, 0, -1 or blank in columns of findings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import chain
from pathlib import Path

import pandas as pd

from chexreason.data.fingerprint import content_sha256
from chexreason.data.leakage import EVALUATION, TRAIN, patient_number, same_patient, vendor_of
from chexreason.data.manifest import READERS, parameters
from chexreason.data.sources.columns import Faults, VendorCsv, any_mark, closest, or_unknown, years
from chexreason.data.sources.csv_text import letters
from chexreason.data.sources.tree import located, without_suffix
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import Track

SPLITS = (*TRAIN, *EVALUATION, READERS, "train", "validate")  # the last two are the vendors', to select from
_SYNONYMS = {"mass": "Lung Lesion", "nodule": "Lung Lesion", "normal": "No Finding"}
_COMMON = {"finding", "lung", "other", "support"}  # words of labels that do not tell which


@dataclass(frozen=True)
class TableSource:
    """The rows of ``csv``, whose ``path_column`` is relative to ``root`` (default: the folder of the csv) or inside it.

    A path may lack its suffix, and a file's name its folder, where one file alone fits (``located``).
    Every row is in ``split``, or in the one its ``split_column`` names: one of ``SPLITS``. ``label_columns`` maps our
    labels to the csv's columns, one or several each (``any_mark``); labels without a column are blank. Its default is
    the columns spelled like CheXpert's labels; a column that is nearly so is a fault, for its marks would be lost.
    ``labelled_only`` leaves out rows that have no mark at all. ``vendor`` is the hospital that gave the ids of
    ``patient_column``: patients are the same in sets that share it, and only suspected without.
    """

    name: str
    csv: Path
    root: Path | None = None
    path_column: str = "path"
    patient_column: str = "patient_id"
    vendor: str | None = None
    split: str = "test"
    split_column: str | None = None
    label_columns: Mapping[str, str | Sequence[str] | None] | None = None
    labelled_only: bool = False
    view_column: str | None = None
    age_column: str | None = None
    sex_column: str | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split='{self.split}'; choose one of: {', '.join(SPLITS)}")
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
        named = {"label_columns": columns or None, "vendor": vendor_of(self.vendor) if self.vendor else None}
        return {"source": "table", **parameters(self, "root"), **csv, **named, "patient_ids": "normal form"}

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; nothing is written.

        Raises FileNotFoundError on a missing csv and ValueError that lists all its faults.
        """
        faults = Faults(f"data set '{self.name}'")
        asked = {label: _listed(names) for label, names in (self.label_columns or {}).items()}
        optional = (self.split_column, self.view_column, self.age_column, self.sex_column)
        named = (self.path_column, self.patient_column, *filter(None, optional), *chain.from_iterable(asked.values()))
        spelled = CHEXPERT14.labels if self.label_columns is None else ()
        table = VendorCsv(self._csv(), list(dict.fromkeys(named)), faults, optional=spelled)
        if table.rows.empty:
            faults.stop()
        labels = asked or {label: [label] for label in spelled if label in table.rows}
        if self.label_columns is None:
            self._check_spelling(table, list(labels))
        marks = table.marks(list(dict.fromkeys(chain.from_iterable(labels.values()))))
        table.named(self.path_column)
        study, path = self._paths(table.rows, faults)
        table.named(self.patient_column)
        patient = self._patients(table)
        split = table.words(self.split_column, SPLITS) if self.split_column else self.split
        faults.stop()
        blank = pd.Series("", index=study.index, dtype="str")
        view, age, sex = (table.rows[column] if column else blank for column in optional[1:])
        rows = pd.DataFrame(
            {
                "study_id": self.name + ":" + study,
                "patient_id": patient,
                "dataset": self.name,
                "split": split,
                "path": path,
                "view": view,
                "age": years(age),
                "sex": or_unknown(sex.str.upper().str.extract("^(M|F)(?:ALE|EMALE)?$")[0], sex).fillna(""),
                **{label: any_mark(marks[labels.get(label, [])].to_numpy()) for label in CHEXPERT14.labels},
            }
        )
        kept = rows[list(CHEXPERT14.labels)].notna().any(axis=1) | (not self.labelled_only)
        if not kept.any():
            raise ValueError(f"{self.csv} has no mark in any of its {len(rows)} rows: see label_columns")
        return rows[kept].reset_index(drop=True)

    def _csv(self) -> Path:
        path = Path(self.csv)
        if not path.is_file():
            raise FileNotFoundError(f"no csv at {path} for data set '{self.name}'")
        return path

    def _check_spelling(self, table: VendorCsv, found: Sequence[str]) -> None:
        """Notes columns whose marks would be lost; raises ValueError where the csv has no label's column."""
        spelled = [letters(re.sub(r"\.\d+$", "", name)) for name in table.header]  # pandas writes a second one as "X.1"
        used, faults = set(map(letters, table.rows)), table.faults
        if twice := [label for label in found if spelled.count(letters(label)) > 1]:
            faults.add(table.file, f"several columns for {', '.join(twice)}; keep one, or name it in label_columns")
        near = {name: label for name in table.header if letters(name) not in used for label in _nearest(name, found)}
        if near:
            asked = {label: [name for name in near if near[name] == label] for label in near.values()}
            known = {label: label for label in found}
            every, some = (json.dumps(names, ensure_ascii=False) for names in ({**known, **asked}, known))
            listed = ", ".join(f"'{name}' ({label}?)" for name, label in near.items())
            ways = f"label_columns: {every} reads them" + (f", label_columns: {some} does not" if found else "")
            faults.add(table.file, f"columns that are nearly spelled like a label: {listed}; {ways}")
        if not found:
            fault = "no column spelled like a CheXpert label; name them in label_columns (ours: theirs)"
            faults.add(table.file, f"{fault}; its columns: {', '.join(table.header)}")
            faults.stop()

    def _paths(self, table: pd.DataFrame, faults: Faults) -> tuple[pd.Series, pd.Series]:
        """The path of each row without its suffix, which names the study, and the file of each row."""
        written = table[self.path_column]
        path = written.map(self._inside).astype("str")
        outside = path.map(lambda p: os.path.isabs(p) or p.split(os.sep)[0] == os.pardir)
        faults.add_rows(self._csv(), f"whose {self.path_column} leads out of {self.image_root}", outside, written)
        study = path.map(without_suffix)
        file, two = located(self.image_root, path)
        fault = f"whose {self.path_column} fits several files (write which)"
        faults.add_rows(self._csv(), fault, two != "", written + " = " + two)
        again = (study.duplicated() | file.duplicated()) & (written != "")
        faults.add_rows(self._csv(), f"that repeat the {self.path_column} (suffix aside)", again, written)
        return study, file

    def _inside(self, path: str) -> str:
        """``path`` from the root on, also where it is absolute and names the root by a link."""
        path = os.path.normpath(path.replace("\\", "/"))  # a csv of Windows
        roots = (self.image_root, Path(self.root if self.root is not None else Path(self.csv).parent).absolute())
        return next((os.path.relpath(path, root) for root in roots if path.startswith(f"{root}{os.sep}")), path)

    def _patients(self, table: VendorCsv) -> pd.Series:
        """The patient of each row; ids the vendor does not have, and two that may be one patient's, are faults."""
        written, vendor = table.identifiers(self.patient_column), vendor_of(self.vendor or self.name)
        number = written.map(partial(patient_number, vendor)).astype("str")
        fault = f"with a {self.patient_column} unlike those of {vendor} (whose else? set vendor)"
        table.faults.add_rows(table.file, fault, (number == "") & (written != ""), written)
        patient = vendor + ":" + number
        first = pd.Series(number.index, number.index).groupby(patient.map(same_patient)).transform("first")
        twin = number.loc[first].set_axis(number.index)
        fault = f"with a {self.patient_column} that may be another's (if it is, write it alike; if not, add a letter)"
        shown = (
            number + "' and line " + first.map(table.faults.begins[table.file].__getitem__).astype("str") + " '" + twin
        )
        table.faults.add_rows(table.file, fault, number != twin, shown)
        return patient


def _nearest(column: str, found: Sequence[str]) -> list[str]:
    """The label that ``column`` most likely means, by a word or the whole name: none of ``found``, or no label."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)]
    likely = {}
    for label in (label for label in CHEXPERT14.labels if label not in found):
        telling = set(label.lower().split()) - _COMMON
        shared = any(_SYNONYMS.get(word) == label or get_close_matches(word, telling, cutoff=0.72) for word in words)
        if shared or get_close_matches(letters(column), [letters(label)], cutoff=0.85):
            likely[letters(label)] = label
    return [likely[name] for name in get_close_matches(letters(column), likely, n=1, cutoff=0.0)]


def _listed(names: str | Sequence[str] | None) -> list[str]:
    return [str(names)] if isinstance(names, str | int) else list(map(str, names or ()))
