"""ChestX-ray14 inside parquet files: rows, names, splits by patient, and images copied once, bytes unchanged."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chexreason.data.image import load_image
from chexreason.data.manifest import conform
from chexreason.data.sources import nih14_parquet
from chexreason.data.sources.nih14_parquet import NIH14ParquetSource
from chexreason.progress import silent

pytestmark = pytest.mark.slow  # each test writes and reads parquet shards

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def jpeg(grey: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), grey % 256, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def shard(path: Path, patients: list[int], paths: list[str] | None = None, **change) -> None:
    """One file of the Hugging Face copy, its columns named and typed as there; row groups of two images."""
    images = [{"bytes": jpeg(3 * i), "path": (paths or [None] * len(patients))[i]} for i in range(len(patients))]
    columns = {
        "image": pa.array(images, STRUCT),
        "label": pa.array([["Effusion", "Mass"] if p % 2 else ["No Finding"] for p in patients]),
        "Patient ID": pa.array(patients),
        "Patient Age": pa.array([58] * len(patients)),
        "Patient Gender": pa.array(["M"] * len(patients)),
        "View Position": pa.array(["PA"] * len(patients)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: column for name, column in (columns | change).items() if column is not None}
    pq.write_table(pa.table(columns), path, row_group_size=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two files of 20 and 10 images; the patients of the second are also in the first."""
    shard(tmp_path / "hf/data/train-00000-of-00001.parquet", list(range(1, 21)))
    shard(tmp_path / "hf/data/test-00000-of-00001.parquet", list(range(1, 11)))
    return tmp_path / "hf"


def frame(root: Path, folder: Path, **options) -> pd.DataFrame:
    return conform(NIH14ParquetSource("nih", root, **options).prepare(folder, silent))


def test_rows_images_and_splits(root, tmp_path):
    rows = frame(root, tmp_path / "out").set_index("study_id")
    assert len(rows) == 30
    assert set(rows["split"]) <= {"sft", "rl", "val", "test"}  # by patient: conform refuses one in two of them
    row = rows.loc["nih:00000003_data-train-00000-of-00001_00002"]
    assert (row["patient_id"], row["view"], row["age"], row["sex"]) == ("nih14:3", "PA", 58, "M")
    assert (row["Lung Lesion"], row["Pleural Effusion"], row["No Finding"]) == (1, 1, 0)
    assert (tmp_path / "out" / row["path"]).read_bytes() == jpeg(6)
    assert all(load_image(tmp_path / "out" / path).size == (8, 8) for path in rows["path"])
    assert NIH14ParquetSource("nih", root).image_root is None


def test_the_converter_s_layout_names_the_vendor_s_images_where_it_can(tmp_path):
    shard(tmp_path / "hf/train/0000.parquet", [1, 1], ["00000001_000.png", "00000001_001.png"])
    rows = frame(tmp_path / "hf", tmp_path / "out")
    assert [Path(path).name for path in rows["path"]] == ["00000001_000.jpg", "00000001_001.jpg"]
    shard(tmp_path / "hf/valid/0000.parquet", [1, 2], ["00000001_000.png", None])  # not all, so none
    rows = frame(tmp_path / "hf", tmp_path / "out")
    assert rows["study_id"].tolist()[-2:] == ["nih:00000001_valid-0000_00000", "nih:00000002_valid-0000_00001"]


def test_images_are_written_once_and_resumed(root, tmp_path, monkeypatch):
    written, write = [], nih14_parquet.write_bytes

    def power_cut(path, data):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data)

    monkeypatch.setattr(nih14_parquet, "write_bytes", power_cut)
    with pytest.raises(KeyboardInterrupt):
        frame(root, tmp_path / "out")
    monkeypatch.setattr(nih14_parquet, "write_bytes", lambda path, data: (written.append(path), write(path, data)))
    first = frame(root, tmp_path / "out")
    assert len(written) == len(set(written)) == 30
    assert not list((tmp_path / "out").rglob(".*"))
    pd.testing.assert_frame_equal(frame(root, tmp_path / "out"), first)
    assert len(written) == 30


def test_another_file_under_the_same_name_is_copied_anew(root, tmp_path):
    before = NIH14ParquetSource("nih", root).provenance
    frame(root, tmp_path / "out")
    images = pa.array([{"bytes": jpeg(100), "path": None}] * 10, STRUCT)
    shard(root / "data/test-00000-of-00001.parquet", list(range(1, 11)), image=images)
    assert NIH14ParquetSource("nih", root).provenance != before
    rows = frame(root, tmp_path / "out").set_index("study_id")
    path = rows.loc["nih:00000001_data-test-00000-of-00001_00000", "path"]
    assert (tmp_path / "out" / path).read_bytes() == jpeg(100)


def test_a_draw_copies_no_more_than_it_needs(root, tmp_path, monkeypatch):
    read, images = [], nih14_parquet._images
    monkeypatch.setattr(
        nih14_parquet, "_images", lambda file, wanted: (read.append(len(wanted)), images(file, wanted))[1]
    )
    counts = {"sft": 1, "rl": 1, "val": 1, "test": 2}
    rows = frame(root, tmp_path / "out", n_per_split=counts)
    assert rows.groupby("split").size().to_dict() == counts
    assert sum(read) == len(list((tmp_path / "out/images").rglob("*.jpg"))) == 5
    with pytest.raises(ValueError, match="asks for 99 studies of 'test'"):
        frame(root, tmp_path / "out", n_per_split={"test": 99})


def test_only_row_groups_with_wanted_images_are_read(root, monkeypatch):
    groups, iter_batches = [], pq.ParquetFile.iter_batches

    def spy(self, size, row_groups, columns):
        groups.extend(row_groups)
        return iter_batches(self, size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    found = list(nih14_parquet._images(root / "data/train-00000-of-00001.parquet", {5: None, 18: None, 19: None}))
    assert found == [(5, jpeg(15)), (18, jpeg(54)), (19, jpeg(57))]
    assert groups == [2, 9]


def test_all_faults_come_in_one_message(root, tmp_path):
    shard(root / "data/a.parquet", [1, 2], label=pa.array([["Hernia"], ["hernia"]]))
    shard(root / "data/b.parquet", [1, 2], label=pa.array([1, 2]))
    shard(root / "data/c.parquet", [1, 2], image=None)
    shard(root / "data/d.parquet", [1, 2], **{"Patient ID": pa.array([1.0, 2.5])})
    (root / "data/e.parquet").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="5 kinds of fault") as caught:
        frame(root, tmp_path / "out")
    message = str(caught.value)
    assert "a.parquet: 1 rows with a finding NIH does not have ('hernia' (closest: 'Hernia'))" in message
    assert "b.parquet: has labels that are no lists of names" in message
    assert "c.parquet: lacks the columns ['image.bytes']" in message
    assert "d.parquet: 1 rows with a Patient ID that is no whole number: line 3 '2.5'" in message
    assert "e.parquet: is not readable as parquet" in message
    assert not (tmp_path / "out").exists()


def test_rows_without_an_image_are_named(root, tmp_path):
    images = [
        {"bytes": None, "path": "x.png"},
        {"bytes": b"GIF89a", "path": None},
        {"bytes": jpeg(0, "PNG"), "path": None},
    ]
    shard(root / "data/bad.parquet", [1, 2, 3], image=pa.array(images, STRUCT))
    with pytest.raises(ValueError, match="2 kinds of fault") as caught:
        frame(root, tmp_path / "out")
    assert "bad.parquet: row 0 is empty" in str(caught.value)
    assert "bad.parquet: row 1 holds no JPEG or PNG but b'GIF89a'" in str(caught.value)
    assert [path.suffix for path in (tmp_path / "out").rglob("00000003_data-bad_*")] == [".png"]


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*\.parquet under"):
        frame(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="sft_share=2"):
        NIH14ParquetSource("nih", tmp_path, sft_share=2)
