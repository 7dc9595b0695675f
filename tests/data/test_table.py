"""Any CSV as a source: what it accepts and how it explains what it does not."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from chexreason.data.manifest import Manifest, studies
from chexreason.data.prepare import prepare_set
from chexreason.data.sources.table import TableSource
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import IGNORE
from tests.support.manifests import rows_of

CSV = """path,patient_id,Pneumonia,Edema,years,gender,proj,part
a/1.jpg,7,1,,61,Female,PA,sft
a/2.jpg,7,0.0,-1,x,m,AP,sft
b/1.jpg,8,,1.0,200,Mujer,,test
"""
SWALLOWED = 'path,patient_id,Edema,Pneumonia,note\na/1.jpg,1,1,0,"x\nb_c-2.jpg,2,1,0,y"\n'  # a row with another path
SPLIT = "1 rows with a part other than sft, rl, val, test, readers, train, validate: line 4 'hold-out'"


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


def test_optional_columns(tmp_path, caplog):
    rows = frame(tmp_path, view_column="proj", age_column="years", sex_column="gender", split_column="part")
    assert rows["view"].tolist() == ["PA", "AP", ""]
    assert rows["sex"].tolist() == ["F", "M", ""]
    assert rows["age"].isna().tolist() == [False, True, True]
    for lost in ("values of years are not read, so unknown: x", "values of gender are not read, so unknown: Mujer"):
        assert lost in caplog.text
    assert rows["split"].tolist() == ["sft", "sft", "test"]


def test_a_split_to_select_from_is_read_and_said(tmp_path, caplog):
    (tmp_path / "t.csv").write_text(CSV.replace(",sft", ",Train "))
    made = prepare_set(TableSource("t", tmp_path / "t.csv", split_column="part"), tmp_path / "out", check=False)
    assert made.split_counts() == {"train": 2, "test": 1}
    assert "t: split train: nothing trains or is scored on it; draw sft, rl" in caplog.text


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            CSV.replace("path,", "film,"),
            {},
            r"lacks the columns 'path'.* patient_id.*; say what yours are called: path_col",
        ),
        (CSV, {"label_columns": {"Oedema": "Edema"}}, r"unknown label 'Oedema' \(closest: 'Edema'\); ours: Atel"),
        (CSV, {"label_columns": {"Edema": "oedema"}}, r"lacks the columns 'oedema' \(closest: 'Edema'\)"),
        (CSV.replace("b/1.jpg", ""), {}, r"1 rows whose path names nothing \(blank, .*: line 4 ''"),
        (CSV.replace(",sft\n", ",SFT \n").replace(",test", ",hold-out"), {"split_column": "part"}, SPLIT),
        (CSV, {"split": "dev"}, "split='dev'; choose one of: sft, rl, val, test, readers, train, validate"),
        (CSV.replace("part", "edema"), {}, "several columns for Edema; keep one, or name it in label_columns"),
        (
            CSV.replace("proj", "Pleural Other").replace("part", "Pleural_Other"),
            {},
            "several columns for Pleural Other",
        ),
        (CSV.replace("proj", "Edema.1"), {}, "several columns for Edema; keep one"),  # as pandas writes it
        ("path,patient_id,edema_x\nx,1,0\n", {}, r'label_columns: \{"Edema": \["edema_x"\]\} reads them\n'),
        (SWALLOWED, {}, "a row inside quotation marks: line 3, in a cell that is opened in line 2"),
        ("path,patient_id,Hernia\nx,1,0\n", {}, "no column spelled like a CheXpert label"),
        (CSV.replace(",", ";").replace("0.0", "0,5"), {}, "blank: line 3 'Pneumonia=0,5'"),
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
    with pytest.raises(ValueError, match="4 kinds of fault; nothing was written") as caught:
        frame(tmp_path, text)
    for fault in (
        f"2 rows whose path leads out of {tmp_path}: line 3 'b/../../c.jpg', line 4 '/etc/d.jpg'",
        "1 rows that repeat the path (suffix aside): line 5 'A/../a.png'",
        "2 rows whose patient_id names nothing (blank, nan, #N/A, a formula, a rounded number; export the column "
        "again, as text): line 2 '1.00001E+07', line 4 ''",
        "1 rows with a mark other than 1, 0, -1 or blank: line 3 'Edema=2'",
    ):
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("vendor", "written", "patients"),
    [
        (None, ["'13", "\u200b14 ", "\uff11\uff13", '"""IM-1"""'], ["t:13", "t:14", "t:13", "t:IM-1"]),
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


@pytest.mark.parametrize(
    ("column", "label"),
    [
        *((name, "Pleural Effusion") for name in ("Effusion", "Pleural Eff.", "Pleural_Effusions", "Pl. effusion")),
        *((name, "Lung Opacity") for name in ("Airspace Opacity", "Lung Opacities", "LungOpacities")),
        *(("Enlarged Cardiom.", "Enlarged Cardiomediastinum"), ("Normal", "No Finding"), ("No Findings", "No Finding")),
        *(("Mass", "Lung Lesion"), ("lung_nodule", "Lung Lesion"), ("rib_fracture", "Fracture"), ("Oedema", "Edema")),
        *(
            ("Pleural_Thickening", "Pleural Other"),
            ("medical devices", "Support Devices"),
            ("Cardiomeg", "Cardiomegaly"),
        ),
    ],
)
def test_a_nearly_spelled_label_is_asked_for_and_both_answers_work(tmp_path, column, label):
    text = f"path,patient_id,Pneumonia,{column}\n1.jpg,1,1,-1\n"
    with pytest.raises(ValueError, match=r"nearly spelled like a label") as caught:
        frame(tmp_path, text)
    assert f"'{column}' ({label}?)" in str(caught.value)
    mapped, left_out = (yaml.safe_load(answer) for answer in re.findall(r"label_columns: (\{.*?\})", str(caught.value)))
    assert frame(tmp_path, text, label_columns=mapped).loc[0, label] == -1
    rows = frame(tmp_path, text, label_columns=left_out)
    assert (rows.loc[0, "Pneumonia"], rows[label].isna().all()) == (1, True)


@pytest.mark.parametrize("column", ["Pleural_Effusion", "pleural effusion", "PleuralEffusion", "PLEURAL-EFFUSION "])
def test_case_spaces_and_underscores_of_a_label_do_not_matter(tmp_path, column, caplog):
    rows = frame(tmp_path, f"path,patient_id,Pneumonia,{column}\n1.jpg,1,1,0\n")
    assert rows["Pleural Effusion"].tolist() == [0]
    assert f"column '{column.strip()}' taken for 'Pleural Effusion'" in caplog.text


def test_columns_that_are_no_labels_are_left_alone(tmp_path):
    others = (
        "Sex,Age,Frontal/Lateral,AP/PA,View Position,follow_up,nih_findings,findings,report,Hernia,aetiology,lung_mask,"
    )
    others += (
        "nih_edema,expert4_edema,Finding Labels,StudyDate,height,source,site,covid,scanner,Unnamed: 0,label,resident"
    )
    rows = frame(tmp_path, f"path,patient_id,Edema,{others}\n1.jpg,1,1,{',' * others.count(',')}\n")
    assert rows["Edema"].tolist() == [1]


def test_a_label_may_be_read_from_several_columns(tmp_path):
    text = """path,patient_id,mass,nodule,fracture,Edema
1.jpg,1,0,1,,1
2.jpg,1,,-1,,1
3.jpg,1,-1,0,,1
4.jpg,1,,0,1,1
5.jpg,1,,,,1
"""
    columns = {"Lung Lesion": ["mass", "nodule"], "Lung Opacity": "mass", "Fracture": ["fracture"], "Edema": None}
    rows = frame(tmp_path, text, label_columns=columns, split="readers", vendor="nih14", labelled_only=True)
    np.testing.assert_array_equal(rows["Lung Lesion"], [1, -1, -1, 0])
    np.testing.assert_array_equal(rows["Lung Opacity"], [0, np.nan, -1, np.nan])
    np.testing.assert_array_equal(rows["Fracture"], [np.nan, np.nan, np.nan, 1])
    assert rows["Edema"].isna().all()  # not among label_columns
    assert set(rows["split"]) == {"readers"}
    assert set(rows["patient_id"]) == {"nih14:1"}


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
