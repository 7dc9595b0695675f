"""CheXpert: both releases, the test set in its two forms, and every fault of the csv files in one message."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from chexreason.data.prepare import prepare_set
from chexreason.data.sources.chexpert import CheXpertSource
from tests.support.manifests import rows_of


def frame(root, **options) -> pd.DataFrame:
    return rows_of(CheXpertSource("chexpert", root, **options))


@pytest.mark.parametrize("release", ["CheXpert-v1.0", "CheXpert-v1.0-small", "renamed"])
def test_train_and_valid_of_both_releases(chexpert_tree, release):
    root = chexpert_tree(release)
    rows = frame(root, parts=["train", "valid"], frontal_only=False)
    assert rows["split"].tolist() == ["train", "train", "train", "val"]
    assert rows["view"].tolist() == ["AP", "PA", "LATERAL", "AP"]
    assert rows["sex"].tolist() == ["F", "", "M", "M"]
    assert rows["age"].tolist() == [68, 87, 0, 73]
    assert all((root / path).is_file() for path in rows["path"])
    first = rows.iloc[0]
    assert first["study_id"] == "chexpert:patient00001/study1/view1_frontal"
    assert (first["patient_id"], first["exam_id"]) == ("chexpert:patient00001", "chexpert:patient00001/study1")
    assert (first["No Finding"], first["Pneumothorax"], rows.loc[1, "Cardiomegaly"]) == (1, 0, -1)
    assert np.isnan(first["Edema"])
    assert len(frame(root, parts=["train", "valid"])) == 3
    if release != "renamed":  # the root may be the parent
        above = frame(root.parent, parts=["train", "test"])
        assert all((root.parent / path).is_file() for path in above["path"])
        assert (f"{release}/" + frame(root, parts=["train", "test"])["path"]).tolist() == above["path"].tolist()


@pytest.mark.parametrize("absent", ["groundtruth.csv", "test_labels.csv"])
def test_the_test_set_is_the_same_from_either_csv(chexpert_tree, absent):
    root = chexpert_tree(groundtruth=lambda text: text.replace("study1,", "study1/,"))  # with a slash or without
    (root / absent).unlink()
    rows = frame(root)
    assert rows["path"].tolist() == [
        "test/patient64741/study1/view1_frontal.jpg",
        "test/patient64742/study1/view1_frontal.jpg",
        "test/patient64743/study1/view1_frontal.jpg",
        "test/patient64743/study1/view2_frontal.jpg",
    ]
    assert rows["Edema"].tolist() == [0, 0, 1, 1]
    assert set(rows["split"]) == {"test"}
    assert set(rows["view"]) == {"FRONTAL"}
    every = frame(root, frontal_only=False)
    assert every["view"].tolist() == ["FRONTAL", "FRONTAL", "LATERAL", "FRONTAL", "FRONTAL"]
    assert rows["age"].isna().all()


def test_the_labels_of_the_test_set_may_lie_elsewhere(chexpert_tree, tmp_path):
    root = chexpert_tree()
    (tmp_path / "labels").mkdir()
    expected = frame(root)
    elsewhere = shutil.move(root / "groundtruth.csv", tmp_path / "labels" / "truth.csv")
    (root / "test_labels.csv").unlink()
    pd.testing.assert_frame_equal(frame(root, test_csv=elsewhere), expected)
    with pytest.raises(FileNotFoundError, match=r"no groundtruth.csv or test_labels.csv in .*name it in test_csv"):
        frame(root)
    with pytest.raises(FileNotFoundError, match=r"no test_csv at .*gone\.csv"):
        frame(root, test_csv=tmp_path / "gone.csv")


FAULTS = [
    ("train", lambda t: t.replace("AP/PA", "View"), "lacks the columns 'AP/PA'"),
    ("train", lambda t: t.replace("CheXpert-v1.0/train/p", "/etc/train/p"), "3 rows with a Path that leads out"),
    ("train", lambda t: t.replace("CheXpert-v1.0/train", "C:\\\\train"), "3 rows with a Path that leads out"),
    ("train", lambda t: t.replace("train/patient00001", "valid/patient00001"), "unlike train/patient00001/.*: line 2"),
    ("train", lambda t: t.replace("view1_frontal.jpg", "report.pdf"), "2 rows with a Path unlike train/"),
    ("train", lambda t: t + t.split("\n")[2] + "\n", "1 rows that repeat the Path: line 5"),
    ("groundtruth", lambda t: t.replace("64742", "99999"), "1 rows without an image under .*: line 3 'patient99999"),
]


@pytest.mark.parametrize(("short", "change", "message"), FAULTS)
def test_a_fault_is_named_with_its_place(chexpert_tree, short, change, message):
    root = chexpert_tree(**{short: change})
    with pytest.raises(ValueError, match=message) as caught:
        frame(root, parts=["train" if short == "train" else "test"])
    assert f"{short}.csv: " in str(caught.value)
    assert "1 kinds of fault" in str(caught.value)


def test_one_message_lists_the_faults_of_all_files(chexpert_tree, tmp_path):
    root = chexpert_tree(
        train=lambda text: text.replace("1.0,", "yes,").replace("study2", "../.."),
        groundtruth=lambda text: text.replace("patient64743", "patient64742"),
    )
    with pytest.raises(ValueError, match="kinds of fault; nothing was written") as caught:
        prepare_set(CheXpertSource("chexpert", root, ["train", "test"]), tmp_path / "out")
    told = str(caught.value)
    assert "train.csv: 1 rows with a Path that leads out of the root: line 3" in told
    assert "train.csv: 3 rows with a mark other than" in told
    assert "groundtruth.csv: 1 rows that repeat the Study: line 4" in told
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_wrong_folders_and_arguments_say_so(chexpert_tree):
    root = chexpert_tree("CheXpert-v1.0")
    chexpert_tree("CheXpert-v1.0-small")
    with pytest.raises(ValueError, match=r"train\.csv lies in .*CheXpert-v1\.0 and .*-small; set root to one of them"):
        frame(root.parent, parts=["train"])
    with pytest.raises(FileNotFoundError, match=r"no valid\.csv in .*it lies in .*: set root to that"):
        frame(root / "train", parts=["valid"])
    shutil.rmtree(root / "valid")
    with pytest.raises(FileNotFoundError, match="no folder valid/ in"):
        frame(root, parts=["valid"])
    for parts in (["dev"], "test", []):
        with pytest.raises(ValueError, match="write a list of: train, valid, test"):
            CheXpertSource("chexpert", root, parts)
    for path in root.glob("test/*/*/*_frontal.jpg"):
        path.rename(path.with_name("view1_lateral.jpg"))
    with pytest.raises(ValueError, match="none of the 4 images is frontal; set frontal_only=false"):
        frame(root)


def test_provenance_is_json_and_follows_the_files(chexpert_tree):
    first = CheXpertSource("chexpert", chexpert_tree()).provenance
    assert json.loads(json.dumps(first)) == first
    assert first["release"] == ["CheXpert-v1.0"]
    changed = chexpert_tree(groundtruth=lambda text: text.replace("study1,1", "study1,0"))
    assert CheXpertSource("chexpert", changed).provenance["sha256"] != first["sha256"]
