"""NIH ChestX-ray14 in the Hugging Face layout of ``BahaaEldin0/NIH-Chest-Xray-14``: images inside local parquet files.

Columns: ``image`` (struct of ``bytes`` and ``path``), ``label`` (list of NIH's finding names), ``Patient ID``,
``Patient Age``, ``Patient Gender``, ``View Position``. Its train / valid / test were drawn by image, so that patients
cross them; they are not used. The vendor's file names are lost unless ``path`` has them: images are then named after
patient, file and row, and neither the official lists nor the radiologists' labels can be joined.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from chexreason.data.sources.columns import Faults
from chexreason.data.sources.nih14 import check_findings, check_share, draw, manifest_rows, split_patients
from chexreason.files import write_bytes
from chexreason.progress import Track

log = logging.getLogger(__name__)
FACTS = ("Patient Age", "Patient Gender", "View Position")  # "" where a copy lacks them
REQUIRED = ("image.bytes", "label", "Patient ID")
FOLDER = "images"
KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}
BATCH = 16  # images in memory at once: some 8 MB


@dataclass(frozen=True)
class NIH14ParquetSource:
    """The rows of all ``*.parquet`` under ``root``, split by patient as ``NIH14Source`` with ``patient_hash``.

    ``prepare`` copies the images of the rows it returns, bytes unchanged, to ``images/<parquet file>-<hash>/`` of the
    prepared folder: with ``n_per_split`` those that were drawn and no others. Each is written whole or not at all, and
    what is there is not written again.
    """

    name: str
    root: Path
    sft_share: float = 0.7
    include_opacity: bool = True
    n_per_split: Mapping[str, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_share(self.sft_share)

    @property
    def image_root(self) -> None:
        """None: the images lie under the prepared folder."""
        return None

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters, and the hash of each parquet file's footer (columns, sizes, statistics of every row group)."""
        return {
            "source": "nih14_parquet",
            "name": self.name,
            "split": "patient_hash",
            "sft_share": self.sft_share,
            "include_opacity": self.include_opacity,
            "n_per_split": dict(self.n_per_split) if self.n_per_split else None,
            "seed": self.seed,
            "footer_sha256": {self._shard(file): _footer_sha256(file) for file in self._files()},
        }

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows, whose images lie under ``folder`` afterwards.

        Raises FileNotFoundError without a parquet file and ValueError that lists all faults of their content.
        """
        faults = Faults(f"{self.name} ({self.root})")
        tables = [table for table in (self._table(file, faults) for file in self._files()) if table is not None]
        faults.stop()
        table = pd.concat(tables, ignore_index=True)
        image = _unique_names(table)
        rows = manifest_rows(self.name, table.assign(path=""), image, self.include_opacity)
        rows = rows.assign(split=split_patients(table["Patient ID"], self.sft_share), row=table.index)
        rows = draw(rows, self.n_per_split, self.seed)
        wanted = table.loc[rows.pop("row"), ["file", "at"]].assign(image=image).reset_index(drop=True)
        paths = dict(progress(self._extract(wanted, folder, faults), len(wanted)))
        faults.stop()
        return rows.assign(path=pd.Series(paths))

    def _files(self) -> list[Path]:
        files = sorted(Path(self.root).rglob("*.parquet"))
        if not files:
            raise FileNotFoundError(f"no *.parquet under {self.root}; download the data set's parquet files first")
        return files

    def _shard(self, file: Path) -> str:
        """A name for ``file`` that tells data/train-00000-of-00090.parquet and train/0000.parquet apart."""
        return file.relative_to(self.root).with_suffix("").as_posix().replace("/", "-")

    def _table(self, file: Path, faults: Faults) -> pd.DataFrame | None:
        """All columns but the images' bytes, as text under the vendor's names; None where they cannot be read."""
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowException as error:
            faults.add(file, f"is not readable as parquet ({str(error).strip()}); download it again")
            return None
        columns = _columns(parquet.schema_arrow)
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            faults.add(file, f"lacks the columns {missing}; it has: {', '.join(sorted(columns))}")
            return None
        present = [name for name in ("image.path", "label", "Patient ID", *FACTS) if name in columns]
        read = parquet.read(columns=present).to_pandas()
        if not read["label"].map(_is_names).all():
            faults.add(file, f"has labels that are no lists of names: {read['label'].iloc[0]!r}")
            return None
        findings = read["label"].map("|".join)
        facts = {name: read[name].map(_text) if name in read else "" for name in FACTS}
        patient = read["Patient ID"].map(_text).str.lstrip("0")
        vendor = read["image"].map(lambda image: image["path"] or "") if "image.path" in columns else ""
        check_findings(file, findings, faults)
        faults.add_rows(file, "with a Patient ID that is no whole number", ~patient.str.fullmatch(r"\d+"), patient)
        table = pd.DataFrame({"Finding Labels": findings, "Patient ID": patient, **facts, "vendor": vendor})
        return table.assign(file=str(file), shard=self._shard(file), at=table.index)

    def _extract(self, wanted: pd.DataFrame, folder: Path, faults: Faults) -> Iterator[tuple[int, str]]:
        """Index of each ``wanted`` row (file, at, image) and the path of its image relative to ``folder``."""
        for file, rows in wanted.groupby("file", sort=False):
            source = Path(str(file))
            relative = Path(FOLDER) / f"{self._shard(source)}-{_footer_sha256(source)[:8]}"
            there = {path.stem: path.name for path in (folder / relative).glob("*.*") if path.suffix in KINDS.values()}
            missing = {at: (i, image) for i, at, image in zip(rows.index, rows["at"], rows["image"], strict=True)}
            for at, (i, image) in list(missing.items()):
                if image in there:
                    del missing[at]
                    yield i, (relative / there[image]).as_posix()
            for at, data in _images(source, missing):
                i, image = missing[at]
                kind = next((suffix for start, suffix in KINDS.items() if (data or b"").startswith(start)), None)
                if data is None or kind is None:
                    faults.add(
                        source, f"row {at} holds no JPEG or PNG but {data[:8]!r}" if data else f"row {at} is empty"
                    )
                    continue
                write_bytes(folder / relative / f"{image}{kind}", data)
                yield i, (relative / f"{image}{kind}").as_posix()


def _images(file: Path, wanted: Mapping[int, object]) -> Iterator[tuple[int, bytes | None]]:
    """Row and bytes of the ``wanted`` images, row group by row group; one without a wanted row is not read."""
    parquet = pq.ParquetFile(file)
    start = 0
    for group in range(parquet.num_row_groups):
        stop = start + parquet.metadata.row_group(group).num_rows
        if any(start <= at < stop for at in wanted):
            for batch in parquet.iter_batches(BATCH, row_groups=[group], columns=["image.bytes"]):
                column = batch.column(0).field("bytes")
                yield from ((start + k, column[k].as_py()) for k in range(len(column)) if start + k in wanted)
                start += len(column)
        start = stop


def _unique_names(table: pd.DataFrame) -> pd.Series:
    """The vendor's names of the images [N] where every row has its own, else patient, file and row."""
    vendor = table["vendor"].str.extract(r"(\d{8}_\d{3})\.\w+$", expand=False)
    if vendor.notna().all() and vendor.is_unique:
        return vendor
    row = table["at"].map("{:05d}".format)
    return table["Patient ID"].str.zfill(8) + "_" + table["shard"] + "_" + row


def _columns(schema: pa.Schema) -> set[str]:
    """The names of all columns, and of the fields of the image's struct as "image.bytes"."""
    kind = schema.field("image").type if "image" in schema.names else None
    fields = (
        [kind.field(i).name for i in range(kind.num_fields)] if kind is not None and pa.types.is_struct(kind) else []
    )
    return {*schema.names, *(f"image.{name}" for name in fields)}


def _is_names(names: object) -> bool:
    return isinstance(names, np.ndarray) and len(names) > 0 and all(isinstance(name, str) for name in names)


def _text(value: object) -> str:
    """A number, or a text, as text: 57.0 is "57"."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _footer_sha256(file: Path) -> str:
    """SHA-256 of the parquet footer, which says what the file holds without reading gigabytes; "" where it has none."""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - 8))
        tail = opened.read()
        length = int.from_bytes(tail[:4], "little") + 8
        if tail[4:] != b"PAR1" or length > size:
            return ""
        opened.seek(size - length)
        return hashlib.sha256(opened.read()).hexdigest()
