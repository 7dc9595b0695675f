"""Preparation: stop or quarantine, skip or rebuild, and nothing half-made."""

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import chexreason
from chexreason.data.manifest import ManifestError, read_manifest
from chexreason.data.prepare import prepare_set
from chexreason.data.selection import Selected
from chexreason.files import file_sha256
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.uncertainty import ONES, ZEROS
from tests.support.manifests import manifest_rows


@dataclass(frozen=True)
class Films:
    """Six tiny films, rendered into the folder; those in ``bad`` come out cut short."""

    name: str = "films"
    bad: tuple[int, ...] = ()
    error: BaseException | None = None
    provenance: Mapping[str, object] = field(default_factory=lambda: {"seed": 1})
    image_root: Path | None = None
    calls: list[int] = field(default_factory=list)

    def prepare(self, folder: Path, progress) -> pd.DataFrame:
        self.calls.append(1)
        (folder / "images").mkdir(exist_ok=True)
        for i in progress(range(6), 6):
            path = folder / "images" / f"{i}.png"
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(path)
            if i in self.bad:
                path.write_bytes(path.read_bytes()[:40])
            if self.error and i == 3:
                raise self.error
        return manifest_rows("films", 6)


def test_a_good_set_is_written_once(tmp_path):
    source = Films()
    made = prepare_set(source, tmp_path)
    assert made.split_counts() == {"test": 6}
    assert made.provenance["seed"] == 1
    assert made.frame["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert made.frame["sha256"].is_unique  # hashes tell copies apart
    assert "phash" in made.frame
    ids = pd.read_csv(tmp_path / "ids" / "test.csv", keep_default_na=False)
    assert ids["path"].tolist() == made.frame["path"].tolist()
    assert list(ids) == ["study_id", "patient_id", "path", "labels"]
    assert prepare_set(source, tmp_path).provenance == made.provenance
    assert len(source.calls) == 1


@pytest.mark.slow
def test_other_parameters_or_a_damaged_manifest_prepare_anew(tmp_path):
    source = Films()
    prepare_set(source, tmp_path)
    prepare_set(dataclasses.replace(source, provenance={"seed": 2}), tmp_path)
    assert len(source.calls) == 2
    (tmp_path / "manifest.parquet").write_bytes(b"damaged")
    assert len(prepare_set(source, tmp_path).frame) == 6
    assert len(source.calls) == 3


def test_stop_lists_every_bad_image_and_writes_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"2 of 6 images of 'films' cannot be read.*on_error=quarantine") as caught:
        prepare_set(Films(bad=(1, 4)), tmp_path)
    assert "  2 x " in str(caught.value)  # one fault, counted, with its files
    assert "1.png, " in str(caught.value)
    assert "4.png" in str(caught.value)
    assert not (tmp_path / "manifest.parquet").exists()


def test_quarantine_moves_the_bad_rows_aside_and_counts_them(tmp_path):
    made = prepare_set(Films(bad=(1, 4)), tmp_path, on_error="quarantine")
    assert made.frame["study_id"].tolist() == [f"films:{i}" for i in (0, 2, 3, 5)]
    assert made.provenance["quarantined"] == 2
    aside = pd.read_csv(tmp_path / "quarantine.csv")
    assert [Path(path).name for path in aside["path"]] == ["1.png", "4.png"]
    assert aside["reason"].str.len().gt(0).all()
    with pytest.raises(ManifestError, match="2 of 6"):  # a quarantined manifest does not satisfy "stop"
        prepare_set(Films(bad=(1, 4)), tmp_path, on_error="stop")
    prepare_set(Films(), tmp_path)
    assert not (tmp_path / "quarantine.csv").exists()
    with pytest.raises(ManifestError, match="no readable image"):
        prepare_set(Films(bad=tuple(range(6))), tmp_path, on_error="quarantine")
    with pytest.raises(ValueError, match="on_error='skip'; choose one of: stop, quarantine"):
        prepare_set(Films(), tmp_path, on_error="skip")


@dataclass(frozen=True)
class Vendor(Films):
    """``n`` of six films, which lie under ``image_root`` once they are written."""

    n: int = 6

    def prepare(self, folder, progress):
        rows = manifest_rows("films", 6) if self.calls else super().prepare(self.image_root, progress)
        self.calls.append(1)
        return rows[: self.n]


def test_images_of_a_vendor_stay_where_they_are_and_no_rows_write_nothing(tmp_path):
    vendor, out = tmp_path / "vendor", tmp_path / "out"
    vendor.mkdir()
    with pytest.raises(ManifestError, match="'films' has no rows"):
        prepare_set(Vendor(image_root=vendor, n=0), out)
    assert not out.exists()
    assert prepare_set(Vendor(image_root=vendor), out).root == vendor
    assert {p.name for p in out.iterdir()} == {"manifest.parquet", "images.jsonl", "ids"}
    back = read_manifest(out / "manifest.parquet")
    assert all((back.root / path).is_file() for path in back.frame["path"])


def test_a_changed_image_is_noticed_and_its_row_renewed(tmp_path, caplog):
    source, out, film = Vendor(image_root=tmp_path), tmp_path / "out", tmp_path / "images/2.png"
    first, before = prepare_set(source, out), film.stat()
    film.write_bytes(film.read_bytes()[:-1] + b"!")  # the same size
    os.utime(film, ns=(before.st_atime_ns, before.st_mtime_ns))  # and, as rsync -t leaves it, the same time
    second = prepare_set(source, out)
    assert "preparing anew: 1 images have changed since" in caplog.text
    assert (first.frame["sha256"] != second.frame["sha256"]).tolist() == [i == 2 for i in range(6)]
    assert read_manifest(out / "manifest.parquet").frame["sha256"][2] == file_sha256(film)
    whole, record = film.read_bytes(), (out / "images.jsonl").read_text()
    film.unlink()
    with pytest.raises(ManifestError, match="no such file"):
        prepare_set(source, out)
    for _ in range(2):
        assert len(prepare_set(source, out, on_error="quarantine").frame) == 5
    assert (len(source.calls), (out / "images.jsonl").read_text()) == (5, record)  # nothing changed the second time
    film.write_bytes(whole)  # the film that was set aside is back
    assert len(prepare_set(source, out, on_error="quarantine").frame) == 6


def test_an_interrupted_run_leaves_no_manifest(tmp_path):
    prepare_set(Films(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prepare_set(Films(error=KeyboardInterrupt(), provenance={"seed": 2}), tmp_path)
    assert not list(tmp_path.glob("*manifest*"))
    assert len(prepare_set(Films(), tmp_path).frame) == 6


def test_a_full_disk_is_named_and_other_errors_pass(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=rf"make room there; the same command then continues: '{tmp_path}'") as caught:
        prepare_set(Films(error=full), tmp_path)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(PermissionError):
        prepare_set(Films(error=PermissionError("denied")), tmp_path)


@dataclass(frozen=True)
class Half:
    """Two films to sft, one to val, the rest left out."""

    seed: int = 0

    @property
    def provenance(self) -> Mapping[str, object]:
        return {"seed": self.seed}

    def apply(self, frame: pd.DataFrame, dataset: str) -> Selected:
        group = {"images": 2, "share": dict.fromkeys(CHEXPERT14.labels, 0.0)}
        report = {"pool": group, "splits": {"sft": group}, "min_share": 0.05, "warnings": [f"{dataset} is small"]}
        return Selected(frame[:3].assign(split=["sft", "sft", "val"]), report, frame)


@pytest.mark.slow
def test_a_selection_chooses_before_any_image_is_read(tmp_path, caplog):
    made = prepare_set(Films(bad=(4,)), tmp_path, select=Half())  # the bad one is not chosen: nothing stops
    assert made.split_counts() == {"sft": 2, "val": 1}
    assert "films is small" in caplog.text
    assert (tmp_path / "selection.json").is_file()
    assert (tmp_path / "prevalence.png").is_file()
    assert {p.name for p in (tmp_path / "ids").iterdir()} == {"sft.csv", "val.csv"}
    assert made.provenance["selection"] == {"seed": 0}
    assert prepare_set(Films(bad=(4,)), tmp_path, select=Half(1)).provenance["selection"] == {"seed": 1}
    prepare_set(Films(), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"manifest.parquet", "images.jsonl", "images", "ids"}
    assert {p.name for p in (tmp_path / "ids").iterdir()} == {"test.csv"}


def test_without_the_check_no_image_is_opened(tmp_path):
    made = prepare_set(Films(bad=(1, 4)), tmp_path, check=False)
    assert len(made.frame) == 6
    assert "sha256" not in made.frame
    assert made.provenance["images_checked"] is False
    with pytest.raises(ManifestError, match="2 of 6"):  # an unchecked manifest does not satisfy a checked one
        prepare_set(Films(bad=(1, 4)), tmp_path)


def test_another_policy_changes_what_is_told_and_no_row(tmp_path):
    source = Films()
    before = prepare_set(source, tmp_path, policy=ZEROS)
    after = prepare_set(source, tmp_path, policy=ONES)
    assert len(source.calls) == 1
    assert (before.provenance["policy"]["name"], after.provenance["policy"]["name"]) == ("zeros", "ones")
    pd.testing.assert_frame_equal(before.frame, after.frame)
    written = read_manifest(tmp_path / "manifest.parquet").provenance
    assert prepare_set(source, tmp_path, policy=ONES).provenance == written


def test_the_way_to_a_manifest_loads_no_torch():
    """Neither do labels, phantoms and all else in the room but what makes batches of tensors."""
    root = Path(chexreason.__file__).parents[1]
    files = [path for room in ("data", "labels", "phantom") for path in (root / "chexreason" / room).rglob("*.py")]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in files]
    wanted = [name for name in names if not name.endswith((".batches", "__init__"))]
    check = "assert not {'torch', 'transformers', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, {', '.join(wanted)}; {check}"], check=True, cwd=root)
