"""Any CSV as a source: what it accepts and how it explains what it does not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexreason.data.manifest import Manifest, studies
from chexreason.data.sources.table import TableSource
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import IGNORE
from tests.support.manifests import rows_of

CSV = """path,patient_id,Pneumonia,Edema,years,gender,proj,part
a/1.jpg,7,1,,61,Female,PA,sft
a/2.jpg,7,0.0,-1,x,m,AP,sft
b/1.jpg,8,,1.0,200,,,test
"""


def frame(folder: Path, text: str = CSV, **options) -> pd.DataFrame:
    (folder / "t.csv").write_text(text)
    return rows_of(TableSource("t", folder / "t.csv", **options))


def test_marks_and_identifiers(tmp_path):
    rows = frame(tmp_path)
    assert rows["study_id"].tolist() == ["t:a/1", "t:a/2", "t:b/1"]
    assert rows["patient_id"].tolist() == ["t:7", "t:7", "t:8"]
    np.testing.assert_array_equal(rows["Pneumonia"], [1, 0, np.nan])
    np.testing.assert_array_equal(rows["Edema"], [np.nan, -1, 1])
    assert rows["Fracture"].isna().all()
    assert set(rows["split"]) == {"test"}


def test_optional_columns(tmp_path):
    rows = frame(tmp_path, view_column="proj", age_column="years", sex_column="gender", split_column="part")
    assert rows["view"].tolist() == ["PA", "AP", ""]
    assert rows["sex"].tolist() == ["F", "M", ""]
    assert rows["age"].isna().tolist() == [False, True, True]
    assert rows["split"].tolist() == ["sft", "sft", "test"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (CSV, {"label_columns": {"Oedema": "Edema"}}, r"unknown label 'Oedema' \(closest: 'Edema'\); ours: Atel"),
        (CSV, {"label_columns": {"Edema": "oedema"}}, r"lacks the columns 'oedema' \(closest: 'Edema'\)"),
        (CSV.replace("b/1.jpg", ""), {}, "1 rows with an empty path: line 4"),
        ("path,patient_id,Hernia\nx,1,0\n", {}, "no column spelled like a CheXpert label"),
        (CSV.replace(",", ";"), {}, "no column spelled like a CheXpert label"),
        ("path,patient_id,Edema\nx,1,\n", {"labelled_only": True}, "no mark in any"),
    ],
)
def test_errors_name_the_place_and_the_way_out(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        frame(tmp_path, text, **options)


def test_all_faults_come_in_one_message(tmp_path):
    text = """path,patient_id,Edema
a.jpg,1.00001E+07,1
b/../../c.jpg,1,2
/etc/d.jpg,,0
A/../a.png,1,-1.0
"""
    with pytest.raises(ValueError, match="5 kinds of fault; nothing was written") as caught:
        frame(tmp_path, text)
    for fault in (
        f"2 rows whose path leads out of {tmp_path}: line 3 'b/../../c.jpg', line 4 '/etc/d.jpg'",
        "1 rows that repeat a path (suffix aside): line 5 'A/../a.png'",
        "1 rows with an empty patient_id: line 4 '/etc/d.jpg'",
        "1 rows with a patient_id rounded by a spreadsheet: line 2 '1.00001E+07'",
        "1 rows with a mark other than 1, 0, -1 or blank: line 3 'Edema=2'",
    ):
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("vendor", "written", "patients"),
    [
        (None, ["'13", "\u200b14 ", "\uff11\uff13", "IM-0001"], ["t:13", "t:14", "t:13", "t:IM-0001"]),
        (None, ["0007", "0007", "0008"], ["t:0007", "t:0007", "t:0008"]),  # one form throughout: as written
        (None, ["8", "0007", "7"], r"may be another's \(.*\): line 4 '7' and line 3 '0007'$"),
        ("ward", ["P7", "8", "p7"], r"may be another's \(.*\): line 4 'p7' and line 2 'P7'$"),
        ("NIH ChestX-ray14", ["0007", "7", "00000007_001.png", "'7"], ["nih14:7"] * 4),
        ("MIMIC-CXR", ["p10000032", "10000032.0", "files/p10/p10000032/s5/x.jpg"], ["mimic:10000032"] * 3),
        ("mimic", ["10000032", "7"], r"a patient_id unlike those of mimic \(.*set vendor\): line 3 '7'"),
        ("chexpert", ["1", "patient00001", "train/patient00001/study1/view1.jpg"], ["chexpert:patient00001"] * 3),
    ],
)
def test_one_patient_has_one_id_and_forms_that_may_be_one_or_two_are_refused(tmp_path, vendor, written, patients):
    text = "path,patient_id,Edema\n" + "".join(f"{i}.jpg,{patient},1\n" for i, patient in enumerate(written))
    if isinstance(patients, list):
        assert frame(tmp_path, text, vendor=vendor)["patient_id"].tolist() == patients
        return
    with pytest.raises(ValueError, match=patients):
        frame(tmp_path, text, vendor=vendor)


def test_a_label_may_be_read_from_several_columns(tmp_path):
    text = """path,patient_id,mass,nodule,fracture,Edema
1.jpg,1,0,1,,1
2.jpg,1,,-1,,1
3.jpg,1,-1,0,,1
4.jpg,1,,0,1,1
5.jpg,1,,,,1
"""
    columns = {"Lung Lesion": ["mass", "nodule"], "Lung Opacity": "mass", "Fracture": ["fracture"]}
    rows = frame(tmp_path, text, label_columns=columns, split="readers", vendor="nih14", labelled_only=True)
    np.testing.assert_array_equal(rows["Lung Lesion"], [1, -1, -1, 0])
    np.testing.assert_array_equal(rows["Lung Opacity"], [0, np.nan, -1, np.nan])
    np.testing.assert_array_equal(rows["Fracture"], [np.nan, np.nan, np.nan, 1])
    assert rows["Edema"].isna().all()  # not among label_columns
    assert set(rows["split"]) == {"readers"}
    assert set(rows["patient_id"]) == {"nih14:1"}


@pytest.mark.slow
def test_radiologists_and_the_text_miner_on_the_real_set(shared_data):
    """The known agreement of airspace opacity with the Lung Opacity that is derived from NIH's findings."""
    pairs = []
    for name in ("nih", "nih_lowres128"):  # which share 23 of the re-read images
        csv = shared_data / name / "labels.csv"
        options = {"label_columns": {"Lung Opacity": "expert4_airspace_opacity"}, "labelled_only": True}
        sources = (TableSource("readers", csv, split="readers", **options), TableSource("mined", csv))
        read, mined = (rows_of(source).set_index("path")["Lung Opacity"] for source in sources)
        pairs.append(pd.DataFrame({"read": read, "mined": mined.loc[read.index]}))
    both = pd.concat(pairs)
    both = both[~both.index.duplicated()]
    assert (int((both["read"] == both["mined"]).sum()), len(both)) == (175, 263)


def test_provenance_follows_the_csv_and_a_missing_one_is_named(tmp_path):
    frame(tmp_path)
    source = TableSource("t", tmp_path / "t.csv")
    before = source.provenance
    assert source.provenance == before
    (tmp_path / "t.csv").write_text(CSV + "b/2.jpg,9,1,1,5,,,test\n")
    assert source.provenance != before
    assert source.image_root == tmp_path
    with pytest.raises(FileNotFoundError, match=r"no csv at .*nowhere\.csv for data set 't'"):
        rows_of(TableSource("t", tmp_path / "nowhere.csv"))


def test_a_partial_table_keeps_what_nobody_asked_masked(tmp_path):
    manifest = Manifest(frame(tmp_path), {}, tmp_path)
    found = studies(manifest, LabelSet("three", ("Edema", "Fracture", "Pneumonia")), IGNORE, ["test"])
    assert [study.mask for study in found] == [(False, False, True), (False, False, True), (True, False, False)]
    assert [study.target for study in found] == [(0, 0, 1), (0, 0, 0), (1, 0, 0)]


@pytest.mark.parametrize(("name", "n_studies", "n_patients"), [("kermany_test", 618, 427), ("vqarad", 107, 107)])
def test_the_real_sets(shared_data, name, n_studies, n_patients):
    csv = shared_data / name / "labels.csv"
    source = TableSource(name, csv)
    rows = rows_of(source)
    assert (len(rows), rows["patient_id"].nunique()) == (n_studies, n_patients)
    assert all((source.image_root / path).is_file() for path in rows["path"])
    theirs = pd.read_csv(csv).reindex(columns=CHEXPERT14.labels)
    np.testing.assert_array_equal(rows[list(CHEXPERT14.labels)].to_numpy(float), theirs.to_numpy(float))
