"""MIMIC-CXR-JPG: the vendor's layouts, exactly, and every fault of the csv files in one message."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from chexreason.build.data import make
from chexreason.data.prepare import prepare_set
from chexreason.data.sources.mimic_cxr import MIMICCXRSource
from chexreason.labels.catalog import CHEXPERT14
from tests.support.configs import composed
from tests.support.manifests import rows_of


def frame(root, **options) -> pd.DataFrame:
    return rows_of(MIMICCXRSource("mimic", root, **options))


def test_the_papers_config_keeps_the_vendors_test_split_as_the_internal_test(mimic_tree, monkeypatch, tmp_path):
    for name in ("MIMIC_ROOT", "CHEXPERT_ROOT", "NIH_ROOT"):
        monkeypatch.setenv(name, str(mimic_tree()) if name == "MIMIC_ROOT" else "x")
    sizes = [f"data.sets.mimic.select.{name}" for name in ("sft=1", "rl=0", "val=0", "min_share=0", "test_split=test")]
    node = composed("prepare", "data=paper", *sizes).data.sets.mimic
    source, select = make(node.source, _convert_="all"), make(node.select, _convert_="all")
    made = prepare_set(source, tmp_path / "mimic", select=select, check=False)
    tested = made.frame.loc[made.frame["split"] == "test", "exam_id"].tolist()
    assert tested == ["mimic:s50331901"]  # its AP image alone
    assert made.provenance["pool"]["images"] == 2  # AP and PA of train, one of an exam, with a mark


def line(n: int, change):
    """An edit of the ``n``-th line of a file, the header being 1."""

    def edit(text: str) -> str:
        lines = text.split("\n")
        lines[n - 1] = change(lines[n - 1])
        return "\n".join(lines)

    return edit


@pytest.mark.parametrize("release", ["2.0.0", "2.1.0"])
@pytest.mark.parametrize("packed", [True, False])
def test_both_releases_packed_or_not(mimic_tree, release, packed):
    root = mimic_tree(release, packed)
    rows = frame(root)
    assert rows["view"].tolist() == ["PA", "AP", "AP", "AP", "PA"]
    assert rows["split"].tolist() == ["train", "train", "validate", "test", "train"]
    assert all((root / path).is_file() for path in rows["path"])
    assert MIMICCXRSource("mimic", root).provenance["release"] == release


def test_a_row_carries_the_vendor_s_facts_and_a_study_the_labeler_left_out_is_blank(mimic_tree, caplog):
    rows = frame(mimic_tree())
    row = rows.iloc[0]
    dicom = "00000000-bde0afdd-112c0b34-7bc16630-4e384014"
    assert row["study_id"] == f"mimic:{dicom}"
    assert (row["patient_id"], row["exam_id"]) == ("mimic:10000032", "mimic:s50414267")
    assert row["path"] == f"files/p10/p10000032/s50414267/{dicom}.jpg"
    assert row["sex"] == ""
    assert pd.isna(row["age"])
    marks = {label: row[label] for label in CHEXPERT14.labels if not np.isnan(row[label])}
    assert marks == {"Edema": 1.0, "Lung Opacity": 0.0, "Pneumothorax": -1.0}
    left_out = rows.set_index("exam_id").loc["mimic:s57132437", list(CHEXPERT14.labels)]
    assert left_out.isna().all()
    assert "1 of 5 images are of studies that 'chexpert' left out" in caplog.text


def turned(text: str) -> str:
    header, *rows = text.strip().split("\n")
    return "\n".join([header, *reversed(rows)])


@pytest.mark.parametrize(
    "edits",
    [
        {"chexpert": turned, "split": turned},
        {"metadata": lambda t: re.sub(r",(1\d{7}),", r",\1.0,", t), "split": lambda t: t.replace("val", "Val")},
    ],
    ids=["another order", "numbers through floats, splits in capitals"],
)
def test_what_only_looks_different_gives_the_same_rows(mimic_tree, edits):
    expected = frame(mimic_tree())
    pd.testing.assert_frame_equal(frame(mimic_tree(**edits)), expected)


def test_each_image_has_its_own_study_s_marks(mimic_tree):
    every = frame(mimic_tree(), views=None)
    assert len(every) == 8
    assert every["Edema"][every["exam_id"] == "mimic:s50414267"].tolist() == [1.0, 1.0]


def test_the_labelings_are_told_apart(mimic_tree):
    root = mimic_tree("2.1.0")
    by_hand = frame(root, labeler="radiologist", views=None)
    assert by_hand["exam_id"].tolist() == ["mimic:s50331901"] * 2
    assert set(by_hand["split"]) == {"test"}
    assert by_hand.loc[0, ["Lung Opacity", "Atelectasis", "No Finding"]].tolist() == [1.0, 0.0, 0.0]
    second = frame(root, labeler="negbio", readers=True)
    assert set(second["split"]) == {"readers"}
    assert second["Pneumothorax"].iloc[0] == 1.0
    assert second["path"].tolist() == frame(root)["path"].tolist()


FAULTS = [
    ("metadata", lambda t: t.replace("ViewPosition", "Position"), r"lacks the columns 'ViewPosition' \(closest: 'Posi"),
    ("chexpert", lambda t: t + t.split("\n")[1] + "\n", "1 rows that repeat the study_id: line 7 '50414267'"),
    ("chexpert", line(2, lambda row: row.replace("032", "764")), "another subject than in the metadata: line 2"),
    ("metadata", line(3, lambda row: "../../" + row), r"with a dicom_id that is no file name: line 3 '\.\./\.\./"),
    ("metadata", lambda t: t + t.split("\n")[1] + "\n", "1 rows that repeat the dicom_id: line 10"),
    ("metadata", lambda t: t[: t.rindex("\n", 0, -1) + 1], "1 rows with a dicom_id that the metadata lacks: line 9"),
    ("split", line(9, lambda row: "00000099" + row[8:]), "1 rows with a dicom_id that the split file lacks: line 9"),
    ("split", line(2, lambda row: row.replace("10000032", "1")), "another subject or study than in the split .*line 2"),
]


@pytest.mark.parametrize(("short", "change", "message"), FAULTS)
def test_a_fault_is_named_with_its_place(mimic_tree, short, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        frame(mimic_tree(**{short: change}))
    assert re.search(rf"mimic-cxr-2\.0\.0-({short}|metadata|split)\.csv\.gz: ", str(caught.value))


def test_one_message_lists_the_faults_of_all_files(mimic_tree, tmp_path):
    root = mimic_tree(
        metadata=lambda text: re.sub(r",(1\d{7}),", r",\1.5,", text),
        split=lambda text: text.replace("train", "training"),
        chexpert=lambda text: text.replace("1.0,", "yes,"),
    )
    with pytest.raises(ValueError, match="kinds of fault; nothing was written") as caught:
        prepare_set(MIMICCXRSource("mimic", root), tmp_path / "out")
    told = str(caught.value)
    assert "metadata.csv.gz: 8 rows with a subject_id that is no whole number" in told
    assert "line 2 '10000032.5', line 3 '10000032.5', line 4 '10000032.5', ..." in told
    assert "split.csv.gz: 5 rows with a split other than train, validate, test: line 2 'training'" in told
    assert "chexpert.csv.gz: 5 rows with a mark other than 1, 0, -1 or blank: line 2 'Edema=yes'" in told
    assert not list((tmp_path / "out").glob("*"))


def test_an_absent_csv_and_an_empty_selection_say_the_way_out(mimic_tree):
    root = mimic_tree()
    with pytest.raises(FileNotFoundError, match=r"no mimic-cxr-2\.1\.0-test-set.*comes with release 2\.1\.0"):
        frame(root, labeler="radiologist")
    with pytest.raises(ValueError, match=r"no image in views=\['LAO'\]; views it has: .*AP 3"):
        frame(root, views=["LAO"])
    with pytest.raises(ValueError, match="labeler='gpt'; choose one of: chexpert, negbio, radiologist"):
        MIMICCXRSource("mimic", root, labeler="gpt")
    with pytest.raises(ValueError, match=r"views='AP'; write a list like \[AP, PA\]"):
        MIMICCXRSource("mimic", root, views="AP")


def test_provenance_is_json_and_follows_the_files(mimic_tree):
    first = MIMICCXRSource("mimic", mimic_tree()).provenance
    assert json.loads(json.dumps(first)) == first
    assert set(first["sha256"]) == {f"mimic-cxr-2.0.0-{part}.csv.gz" for part in ("metadata", "split", "chexpert")}
    other = mimic_tree(chexpert=lambda text: text.replace("-1.0", "1.0"))
    assert MIMICCXRSource("mimic", other).provenance["sha256"] != first["sha256"]
    assert MIMICCXRSource("mimic", other, views=None).provenance["views"] is None
