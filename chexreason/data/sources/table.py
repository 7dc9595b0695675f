"""Any CSV with an image a row, or a reader of it, and marks 1, 0, -1 or blank in columns, or lists of findings."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from chexreason.data.fingerprint import content_sha256
from chexreason.data.leakage import EVALUATION, TRAIN, patient_number, same_patient, vendor_of
from chexreason.data.manifest import READERS, parameters
from chexreason.data.sources.columns import (
    Faults,
    VendorCsv,
    any_mark,
    closest,
    first_of,
    nearest_label,
    or_unknown,
    years,
)
from chexreason.data.sources.csv_text import letters
from chexreason.data.sources.film_folder import file_patients
from chexreason.data.sources.nih14 import by_value, hashed_split
from chexreason.data.sources.tree import located, without_suffix
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.crosswalk import marks_of
from chexreason.progress import Track

log = logging.getLogger(__name__)
_NO_PATIENT = "empty: DICOM's PatientID, hashed, else each film a patient"
SPLITS = (*TRAIN, *EVALUATION, READERS, "train", "validate")  # the last two are the vendors', to select from
HASHED = ("patient_hash", "train_hash")  # by patient, as NIH14Source does it; the second leaves no test
_SILENT = frozenset({"", "unchanged", "exclude", "suboptimal study"})  # in lists of findings: words that judge nothing
_FACTS = {"age", "sex", "gender", "view", "viewposition", "modality", "studyid", "studydate", "width", "height"}


@dataclass(frozen=True)
class TableSource:
    """The rows of ``csv``, whose ``path_column`` is relative to ``root`` (default: the folder of the csv) or inside it.

    A path may lack its suffix, and a file's name its folder, where one file alone fits (``located``).
    Every row is in ``split`` (one of ``SPLITS``, or of ``HASHED``), or in the one its ``split_column`` names.
    ``label_columns`` maps our labels to the csv's columns, one or several each (``any_mark``); labels without a column
    are blank. Its default is the columns spelled like CheXpert's labels; a column that is nearly so is a fault, for its
    marks would be lost. {} is films without labels, and so is a csv whose other columns are well-known facts alone.
    An empty ``patient_column`` takes the patients of ``file_patients``.
    With ``list_column`` it maps them to names in that column's lists ("['mass', 'edema']"): what a
    list leaves out is absent, and rows whose list judges nothing are left out. With ``reader_column`` a row is one
    reader's, and an image has the marks of the majority; a tie is uncertain (-1). ``keep`` names the values of columns
    whose rows are taken. ``labelled_only`` leaves out rows that have no mark at all. ``vendor`` is the hospital that
    gave the ids of ``patient_column``: patients are the same in sets that share it, and only suspected without.
    ``birth_column`` and ``date_column`` begin with years, and give the age.
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
    list_column: str | None = None
    reader_column: str | None = None
    keep: Mapping[str, Sequence[str]] | None = None
    exam_column: str | None = None
    birth_column: str | None = None
    date_column: str | None = None

    def __post_init__(self) -> None:
        if self.split not in (*SPLITS, *HASHED):
            raise ValueError(f"split='{self.split}'; choose one of: {', '.join((*SPLITS, *HASHED))}")
        if self.list_column and not self.label_columns:
            raise ValueError(f"list_column='{self.list_column}': map our labels to its names in label_columns")
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
        facts = [getattr(self, f"{fact}_column") for fact in ("view", "age", "sex", "exam", "birth", "date")]
        apart = (self.split_column, self.reader_column, *(self.keep or ()))
        marked = [self.list_column] if self.list_column else chain.from_iterable(asked.values())
        named = (self.path_column, *filter(None, (self.patient_column, *apart, *facts)), *marked)
        spelled = CHEXPERT14.labels if self.label_columns is None else ()
        table = VendorCsv(self._csv(), list(dict.fromkeys(named)), faults, optional=spelled)
        if table.rows.empty:
            if "lacks the columns" in faults.lines[-1]:
                faults.lines[-1] += f"; say what yours are called: path_column=, patient_column= ({_NO_PATIENT})"
            faults.stop()
        labels = asked or {label: [label] for label in spelled if label in table.rows}
        if self.label_columns is None:
            self._check_spelling(table, list(labels))
        marks = self._from_lists(table, labels) if self.list_column else _from_columns(table, labels)
        table.named(self.path_column)
        study, file = self.paths(table.rows, faults)
        patient = self._patients(table) if self.patient_column else self._file_patients(file, folder, progress)
        split: object = self.split
        if self.split_column:
            split = table.words(self.split_column, SPLITS)
        elif self.split in HASHED:
            split = hashed_split(patient, in_test=None if self.split == HASHED[0] else patient.isna())
        elif unread := [name for name in table.header if letters(name) == "split"]:
            log.warning("%s: column '%s' is not read; say split_column=%s", self.name, unread[0], unread[0])
        faults.stop()
        view, age, sex, exam, birth, date = (self._text(table.rows, column) for column in facts)
        passed = pd.to_numeric(date.str[:4], errors="coerce") - pd.to_numeric(birth.str[:4], errors="coerce")
        rows = pd.DataFrame(
            {
                "study_id": self.name + ":" + study,
                "patient_id": patient,
                "dataset": self.name,
                "split": split,
                "path": file,
                "view": view,
                "age": passed if self.birth_column else years(age),
                "sex": or_unknown(sex.str.upper().str.extract("^(M|F)(?:ALE|EMALE)?$")[0], sex).fillna(""),
                **({"exam_id": patient + "/" + exam} if self.exam_column else {}),
                **marks,
            }
        )
        rows = self._kept(rows, table.rows)
        rows = voted(rows) if self.reader_column else rows
        return self._labelled(rows) if self.labelled_only or self.list_column else rows

    @staticmethod
    def _text(table: pd.DataFrame, column: str | None) -> pd.Series:
        return table[column] if column else pd.Series("", index=table.index, dtype="str")

    def _kept(self, rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of which each column of ``keep`` has a value that is asked for; raises ValueError without any."""
        for column, values in (self.keep or {}).items():
            taken, found = table[column].isin(values).loc[rows.index], table[column].value_counts()
            if not taken.any():
                counts = ", ".join(f"{value or '(blank)'} {n}" for value, n in found[:9].items())
                raise ValueError(f"'{self.name}' has no row with {column} in {list(values)}; it has: {counts}")
            log.info("%s: %d of %d rows are kept by %s in %s", self.name, taken.sum(), len(rows), column, list(values))
            rows = rows[taken]
        return rows.reset_index(drop=True)

    def _from_lists(self, table: VendorCsv, labels: Mapping[str, Sequence[str]]) -> dict[str, npt.NDArray[np.float64]]:
        """Marks [N] of each label; a cell that is no list is a fault, and names that are no label's are counted."""
        cells = table.rows[self.list_column]
        lists = by_value(cells, _names)
        table.faults.add_rows(table.file, f"whose {self.list_column} is no list like ['mass']", lists.isna(), cells)
        own = {label: {name.casefold() for name in names} for label, names in labels.items()}
        counts = Counter(name for names in lists.dropna() for name in names - _SILENT.union(*own.values()))
        if counts:
            told = first_of(f"{name} ({n})" for name, n in counts.most_common())
            log.warning("%s: %d names in %s are no label's: %s", self.name, len(counts), self.list_column, told)
        marks = marks_of([None if not names or names <= _SILENT else names for names in lists], own, _SILENT)
        return dict(zip(CHEXPERT14, marks.T, strict=True))

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
        unread = [name for name in table.header if letters(name) not in used]
        near = {name: label for name in unread for label in nearest_label(name, found)}
        if near:
            asked = {label: [name for name in near if near[name] == label] for label in near.values()}
            known = {label: label for label in found}
            every, some = (json.dumps(names, ensure_ascii=False) for names in ({**known, **asked}, known))
            listed = ", ".join(f"'{name}' ({label}?)" for name, label in near.items())
            ways = f"label_columns: {every} reads them" + (f", label_columns: {some} does not" if found else "")
            faults.add(table.file, f"columns that are nearly spelled like a label: {listed}; {ways}")
        if not found and _FACTS.issuperset(map(letters, unread)):
            log.warning("%s: no column of %s is a label's: films without labels", self.name, table.file)
        elif not found:
            ways = "name them in label_columns (ours: theirs); label_columns={} is films without labels"
            fault = f"no column spelled like a CheXpert label; {ways}"
            faults.add(table.file, f"{fault}; its columns: {', '.join(table.header)}")
            faults.stop()

    def paths(self, table: pd.DataFrame, faults: Faults) -> tuple[pd.Series, pd.Series]:
        """The path of each row without its suffix, which names the study, and the file of each row."""
        written = table[self.path_column]
        path = written.map(self._inside).astype("str")
        outside = path.map(lambda p: os.path.isabs(p) or p.split(os.sep)[0] == os.pardir)
        faults.add_rows(self._csv(), f"whose {self.path_column} leads out of {self.image_root}", outside, written)
        study = path.map(without_suffix)
        file, two = located(self.image_root, path)
        fault = f"whose {self.path_column} fits several files (write which)"
        faults.add_rows(self._csv(), fault, two != "", written + " = " + two)
        reader = self._text(table, self.reader_column)
        again = ((study + "\n" + reader).duplicated() | (file + "\n" + reader).duplicated()) & (written != "")
        once = "that repeat the" if self.reader_column is None else f"that repeat a {self.reader_column} of the"
        faults.add_rows(self._csv(), f"{once} {self.path_column} (suffix aside)", again, written)
        return study, file

    def _inside(self, path: str) -> str:
        """``path`` from the root on, also where it is absolute and names the root by a link."""
        path = os.path.normpath(path.replace("\\", "/"))  # a csv of Windows
        roots = (self.image_root, Path(self.root if self.root is not None else Path(self.csv).parent).absolute())
        return next((os.path.relpath(path, root) for root in roots if path.startswith(f"{root}{os.sep}")), path)

    def _patients(self, table: VendorCsv) -> pd.Series:
        """The patient of each row; ids the vendor does not have, and two that may be one patient's, are faults."""
        table.named(self.patient_column)
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

    def _file_patients(self, file: pd.Series, folder: Path, progress: Track) -> pd.Series:
        found = file_patients(self.image_root, file.tolist(), folder, progress)
        return vendor_of(self.vendor or self.name) + ":" + pd.Series(found, file.index, dtype="str")

    def _labelled(self, rows: pd.DataFrame) -> pd.DataFrame:
        marked = rows[list(CHEXPERT14.labels)].notna().any(axis=1)
        if not marked.any():
            raise ValueError(f"{self.csv} has no mark in any of its {len(rows)} rows: see label_columns")
        log.info("%s: %d of %d rows have no mark and are left out", self.name, (~marked).sum(), len(rows))
        return rows[marked].reset_index(drop=True)


def _from_columns(table: VendorCsv, labels: Mapping[str, Sequence[str]]) -> dict[str, npt.NDArray[np.float64]]:
    marks = table.marks(list(dict.fromkeys(chain.from_iterable(labels.values()))))
    return {label: any_mark(marks[list(labels.get(label, []))].to_numpy()) for label in CHEXPERT14}


def voted(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an image of a row a reader: a label is what most of those who mark it say, and -1 where they tie."""
    labels = list(CHEXPERT14.labels)
    share = rows[labels].replace(-1.0, 0.5).groupby(rows["study_id"], sort=False).mean().to_numpy()  # [N, 14]
    marks = np.where(share == 0.5, -1.0, np.where(np.isnan(share), np.nan, share > 0.5))
    return rows.drop_duplicates("study_id").reset_index(drop=True).assign(**dict(zip(labels, marks.T, strict=True)))


def _names(cell: str) -> frozenset[str] | None:
    """The names in a list as Python writes it, in lower case; none of a blank cell, None of what is no such list."""
    if cell.casefold() in ("", "nan"):
        return frozenset()
    try:
        names = ast.literal_eval(cell)
        return frozenset(name.strip().casefold() for name in names) if isinstance(names, list) else None
    except (ValueError, SyntaxError, AttributeError):
        return None


def _listed(names: str | Sequence[str] | None) -> list[str]:
    return [str(names)] if isinstance(names, str | int) else list(map(str, names or ()))
