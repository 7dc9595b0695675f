"""The manifest: the table of the studies of one data set, validated when written and verified when read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from chexreason.files import whole
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import LabelPolicy, resolve
from chexreason.types import Sign, Study

SCHEMA_VERSION = 2
METADATA_KEY = b"chexreason"
_TEXT = ("study_id", "patient_id", "dataset", "split", "path", "view", "sex")
_REQUIRED = ("study_id", "patient_id", "dataset", "split", "path")  # text that may not be empty
_COLUMNS = (*_TEXT, "age", *CHEXPERT14.labels)
_OPTIONAL = ("signs", "exam_id", "sha256", "phash")  # text, "" where unknown; the two hashes are of the image file
READERS = "readers"  # a second labelling of images of another set: neither trained on nor scored
_SHOWN = 5  # offenders named in an error message


class ManifestError(ValueError):
    """A manifest, or a table meant to become one, that cannot be trusted."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """The table of one data set: ``frame`` as ``conform`` returns it, where it came from, and the images' folder.

    ``frame["path"]`` is relative to ``root``. ``provenance`` must survive a round trip through JSON.
    """

    frame: pd.DataFrame
    provenance: Mapping[str, object]
    root: Path

    def split_counts(self) -> dict[str, int]:
        """Number of studies of each split."""
        return {str(split): int(n) for split, n in self.frame["split"].value_counts(sort=False).items()}


def parameters(source: Any, *left_out: str) -> dict[str, object]:
    """The fields of the dataclass ``source`` as JSON has them, without those ``left_out``; a provenance holds them."""
    values = {field.name: getattr(source, field.name) for field in fields(source) if field.name not in left_out}
    return {name: _plain(value) for name, value in values.items()}


def conform(frame: pd.DataFrame) -> pd.DataFrame:
    """A typed copy of ``frame`` in the manifest's column order; ``frame`` is unchanged.

    One row is one image: ``exam_id`` ties the images of one visit together. Raises ManifestError on a missing or
    unknown column, an empty identifier, a raw label other than 1, 0, -1, NaN, a repeated study, a patient in two
    splits (``readers`` is no split in this sense), or rows of more than one data set.
    """
    _check_columns(frame)
    text = {name: _text(frame[name]) for name in (*_TEXT, *(name for name in _OPTIONAL if name in frame))}
    labels = {name: _marks(frame, name) for name in CHEXPERT14.labels}
    typed = pd.DataFrame({**text, "age": _age(frame["age"]), **labels})
    typed = typed[[*_COLUMNS, *(name for name in _OPTIONAL if name in frame)]].reset_index(drop=True)
    for name in _REQUIRED:
        if (typed[name] == "").any():
            raise ManifestError(f"column '{name}' is empty in row {int((typed[name] == '').argmax())}")
    repeated = typed["study_id"][typed["study_id"].duplicated()].unique()
    if len(repeated):
        raise ManifestError(f"{len(repeated)} study_id appear more than once: {', '.join(repeated[:_SHOWN])}")
    if typed["dataset"].nunique() > 1:
        raise ManifestError(f"one manifest holds one data set; found {sorted(typed['dataset'].unique())}")
    _check_patients(typed)
    return typed


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Validates and writes ``manifest`` as Parquet, complete or not at all.

    The root is stored only where it is not the folder of ``path``, so that a rendered set moves with its folder.
    """
    frame = conform(manifest.frame)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    elsewhere = manifest.root.resolve() != path.parent.resolve()
    header = {
        "schema": SCHEMA_VERSION,
        "content_sha256": content_hash(frame),
        "image_root": str(manifest.root.resolve()) if elsewhere else None,
        "provenance": dict(manifest.provenance),
    }
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: json.dumps(header).encode()})
    with whole(path) as temporary:
        pq.write_table(table, temporary)


def read_manifest(path: Path) -> Manifest:
    """The manifest at ``path``; raises ManifestError when it is missing, foreign, outdated or altered."""
    again = "prepare the data set again"
    if not path.is_file():
        raise ManifestError(f"no manifest at {path}; prepare the data set first")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{path} is not readable as Parquet ({error}); {again}") from error
    header_bytes = (table.schema.metadata or {}).get(METADATA_KEY)
    if header_bytes is None:
        raise ManifestError(f"{path} is a Parquet file but not a manifest of chexreason; {again}")
    header = json.loads(header_bytes)
    if header["schema"] != SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has manifest schema {header['schema']}; this version reads {SCHEMA_VERSION}: {again}"
        )
    frame = conform(table.to_pandas())
    if content_hash(frame) != header["content_sha256"]:
        raise ManifestError(f"{path} was altered after it was written (content hash differs); {again}")
    return Manifest(frame, header["provenance"], Path(header["image_root"] or path.parent))


def studies(manifest: Manifest, label_set: LabelSet, policy: LabelPolicy, splits: Sequence[str]) -> list[Study]:
    """The studies of ``splits``, in row order, with targets over ``label_set`` resolved by ``policy``.

    A class without a single mark in the whole manifest, all splits together, is one its source never labels.
    Raises ManifestError on a split without studies or a label that manifests do not have.
    """
    frame = manifest.frame
    unknown = [label for label in label_set.labels if label not in CHEXPERT14.labels]
    if unknown:
        raise ManifestError(f"label set '{label_set.name}' has labels no manifest holds: {', '.join(unknown)}")
    counts = manifest.split_counts()
    for split in splits:
        if split not in counts:
            have = ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
            raise ManifestError(f"no studies in split '{split}' of {manifest.root}; splits it has: {have}")
    labelled = frame[list(label_set.labels)].notna().any(axis=0).to_numpy()  # [L]
    chosen = frame[frame["split"].isin(list(splits))]
    raw = chosen[list(label_set.labels)].to_numpy(dtype=np.float64)  # [N, L]
    target, mask = resolve(raw, policy, labelled)  # [N, L], [N, L]
    return [
        Study(
            study_id=row["study_id"],
            patient_id=row["patient_id"],
            dataset=row["dataset"],
            image=manifest.root / row["path"],
            target=tuple(hot),
            mask=tuple(on),
            view=row["view"],
            age=None if pd.isna(row["age"]) else int(row["age"]),
            sex=row["sex"],
            signs=_signs(row.get("signs", ""), row["study_id"]),
            image_sha256=row.get("sha256", ""),
        )
        for row, hot, on in zip(chosen.to_dict("records"), target.tolist(), mask.tolist(), strict=True)
    ]


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of the rows of a conformed ``frame``, written as CSV: the identity of the data."""
    buffer = io.BytesIO()
    pa.csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), buffer)
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _check_columns(frame: pd.DataFrame) -> None:
    missing = [name for name in _COLUMNS if name not in frame]
    extra = [str(name) for name in frame if name not in (*_COLUMNS, *_OPTIONAL)]
    if missing or extra:
        raise ManifestError(f"manifest columns missing: {missing or 'none'}; not known: {extra or 'none'}")


def _text(column: pd.Series) -> pd.Series:
    text = column if column.dtype == "str" else column.astype(object)
    return text.where(column.notna(), "").astype("str")


def _age(column: pd.Series) -> pd.Series:
    """Age in years as nullable integers; ages outside 0..120 are typing errors of the source and become unknown."""
    years = pd.to_numeric(column, errors="coerce")
    return years.where(years.between(0, 120)).astype("float64").round().astype("Int64")


def _marks(frame: pd.DataFrame, label: str) -> pd.Series:
    marks = pd.to_numeric(frame[label], errors="coerce").astype("float64")
    bad = frame[label].notna() & ~marks.isin((1.0, 0.0, -1.0))
    if bad.any():
        row = int(bad.to_numpy().argmax())
        value, study = frame[label].iloc[row], frame["study_id"].iloc[row]
        raise ManifestError(f"label '{label}' of study {study} (row {row}) is '{value}'; allowed: 1, 0, -1 or blank")
    return marks


def _check_patients(frame: pd.DataFrame) -> None:
    placed = frame.loc[frame["split"] != READERS, ["patient_id", "split"]].drop_duplicates()
    crossing = placed[placed["patient_id"].duplicated(keep=False)].groupby("patient_id", sort=False)["split"].agg(list)
    if len(crossing):
        named = "; ".join(f"{patient} in {' and '.join(where)}" for patient, where in crossing[:_SHOWN].items())
        raise ManifestError(f"{len(crossing)} patients are in more than one split: {named}")


def _signs(text: str, study_id: str) -> tuple[Sign, ...]:
    try:
        return tuple(Sign(**sign) for sign in json.loads(text)) if text else ()
    except (TypeError, ValueError) as error:
        raise ManifestError(f"signs of study {study_id} are not a list of label, side, severity: {text!r}") from error
