"""Vendors' trees as people unpack them: each film is found, or the message says what to do and that works."""

import re
import shutil
from pathlib import Path

import pytest

from chexreason.data.sources.chexpert import CheXpertSource
from chexreason.data.sources.mimic_cxr import MIMICCXRSource
from chexreason.data.sources.nih14 import NIH14Source
from chexreason.data.sources.table import TableSource
from tests.data.test_nih14 import vendor
from tests.support.manifests import rows_of

UID = "1.2.840.113.619"
NOT_FILMS = ("images/._{}.png", ".cache/{}.png", "__MACOSX/images/{}.png", "images/.ipynb_checkpoints/{}.png")


def found(source, root: Path, **options):
    """The rows of a source in ``root``, or in the folder that its refusal names; every image is there."""
    try:
        rows = rows_of(source("x", root, **options))
    except FileNotFoundError as error:
        place = re.search("it lies in (.*): set root to that|set root to (/.*)$", str(error))
        root = Path(place[1] or place[2])
        rows = rows_of(source("x", root, **options))
    assert all((root / path).is_file() for path in rows["path"])
    return rows


@pytest.mark.parametrize(
    ("written", "files", "expected"),
    [
        ("{root}/a/1.png", ["a/1.png"], "a/1.png"),
        ("{link}/a/1.png", ["a/1.png"], "a/1.png"),
        ("/etc/a/1.png", ["a/1.png"], "leads out of .*: line 2 '/etc/a/1.png'"),
        (f"{UID}.5", [f"x/{UID}.5.dcm", f"x/{UID}.6.dcm"], f"x/{UID}.5.dcm"),
        (f"x/{UID}.5.dcm", [f"x/{UID}.5"], f"x/{UID}.5"),
        ("1_000", ["images/1_000.png", *(twin.format("1_000") for twin in NOT_FILMS)], "images/1_000.png"),
        ("b/1.png", ["b/1.JPG", "a/1.png"], "b/1.JPG"),
        (r"b\1.png", ["b/1.png"], "b/1.png"),
        ("st.john_1", ["x/st.john_1.png", "x/st.john_2.png"], "x/st.john_1.png"),
        ("1", ["a/1.png", "b/1.png"], "fits several files .*: line 2 '1 = a/1.png and b/1.png'"),
        ("a/1", ["a/1.png", "a/1.jpg"], "'a/1 = a/1.jpg and a/1.png'"),
        ("a/1.png", ["b/1.png"], "a/1.png"),  # of another patient perhaps: whoever reads it says that it is missing
    ],
)  # fmt: skip
def test_a_path_of_a_table_means_one_file_or_is_refused(tmp_path, written, files, expected):
    root, link = tmp_path / "root", tmp_path / "link"
    link.symlink_to(root)
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    rows = "\n".join(f"{path},{i},1" for i, path in enumerate((written.format(root=root, link=link), f"{UID}.7")))
    (tmp_path / "t.csv").write_text(f"path,patient_id,Edema\n{rows}\n")
    source = TableSource("t", tmp_path / "t.csv", root=link)
    if expected in files or expected == written:
        assert rows_of(source)["path"].tolist() == [expected, f"{UID}.7"]
    else:
        with pytest.raises(ValueError, match=expected):
            rows_of(source)


def test_an_nih_image_in_two_places_is_refused_and_copies_of_the_system_are_not_seen(tmp_path):
    vendor(tmp_path, layout="images_{:03d}/images")
    expected = found(NIH14Source, tmp_path / "images_001")["path"].tolist()  # says where the csv is
    (tmp_path / "images").mkdir()
    (tmp_path / "images/._00000001_000.png").touch()
    shutil.copytree(tmp_path / "images_001", tmp_path / ".cache/images_001")
    shutil.copytree(tmp_path / "images_001", tmp_path / "images/.ipynb_checkpoints/images_001")
    (tmp_path / "images_003").symlink_to(tmp_path / "images_002")
    (tmp_path / "images_001" / "images_loop").symlink_to(tmp_path)
    for name in ("train_val_list", "test_list"):  # as in Kaggle's copy
        (tmp_path / f"{name}.txt").rename(tmp_path / f"{name}_NIH.txt")
    assert found(NIH14Source, tmp_path)["path"].tolist() == expected
    (tmp_path / "images/00000001_000.jpg").touch()
    with pytest.raises(ValueError, match=r"two places .*: line 2 'images/00000001_000.jpg and images_001/images/0000"):
        found(NIH14Source, tmp_path)


@pytest.mark.parametrize("wrapped", ["", "train"])
def test_chexpert_in_batches_is_the_release(chexpert_tree, tmp_path, wrapped):
    root, full = chexpert_tree(), tmp_path / "chexpertchestxrays-u20210408"
    expected = found(CheXpertSource, root, parts=["train", "valid"])
    first = full / "CheXpert-v1.0 batch 1 (validate & csv)"
    first.mkdir(parents=True)
    for name in ("train.csv", "valid.csv", "valid"):
        shutil.move(root / name, first / name)
    for i, patient in enumerate(("patient00001", "patient00002")):
        shutil.move(root / "train" / patient, full / f"CheXpert-v1.0 batch {i + 2} (train {i + 1})" / wrapped / patient)
    shutil.rmtree(root)
    for place in (full, tmp_path, first):  # the last is refused: the batches of train lie beside it
        rows = found(CheXpertSource, place, parts=["train", "valid"])
        assert rows.drop(columns="path").equals(expected.drop(columns="path"))
    shutil.copytree(full / "CheXpert-v1.0 batch 2 (train 1)", full / "CheXpert-v1.0 batch 4 (train 3)")
    with pytest.raises(ValueError, match=r"1 rows whose patient is in two folders: line 2 'patient00001.*batch 4 \(tr"):
        found(CheXpertSource, full, parts=["train", "valid"])


def test_mimic_is_found_from_the_folders_around_it(mimic_tree):
    root = mimic_tree("2.1.0")
    for place in (root, root / "files", root.parent, root.parent.parent):
        assert len(found(MIMICCXRSource, place)) == 5
