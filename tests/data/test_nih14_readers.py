"""Radiologists' re-labels of ChestX-ray14: Google's files, their crosswalk, and a set beside the text-mined one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexreason.data.sources.nih14_readers import ALL_FINDINGS, FOUR_FINDINGS, NIH14ReadersSource
from chexreason.labels.catalog import CHEXPERT14
from tests.support.manifests import rows_of

FOUR_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],Fracture,Pneumothorax,Airspace opacity,"
    "Nodule or mass,Set Id"
)
ALL_HEADER = (
    "Image ID,Patient ID,Abnormal,Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,"
    "Consolidation,Edema,Emphysema,Fibrosis,Pleural Thickening,Hernia,Other"
)
FOUR, ALL = "four_findings_expert_labels/test_labels.csv", "all_findings_expert_labels/test_labels.csv"


def four(image: str, marks: str, patient: str = "") -> str:
    return f"{image},Effusion,3,{patient or int(image[:8])},58,M,PA,2500,2048,0.1,0.1,{marks},test"


def positive(image: str, *findings: str, abnormal: str = "YES") -> str:
    marks = ["YES" if column in findings else "NO" for column in ALL_FINDINGS if column != "Abnormal"]
    return f"{image},{int(image[:8])},{abnormal},{','.join(marks)}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The vendor's images of three patients, and both studies' test labels in the folders they come in."""
    one, two, three = names = ("00000001_000.png", "00000002_001.png", "00000003_000.png")
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / name).with_suffix(".jpg").touch()
    write(tmp_path / FOUR, FOUR_HEADER, four(one, "NO,YES,NO,YES"), four(two, "YES,NO,YES,"))
    sick = positive(three, "Nodule", "Hernia", "Effusion")
    write(tmp_path / ALL, ALL_HEADER, positive(two, abnormal="NO"), sick)
    return tmp_path


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def frame(root: Path, csv: str | list[str] = FOUR, **options) -> pd.DataFrame:
    return rows_of(NIH14ReadersSource("nih_readers", root, csv, **options))


def marked(row: pd.Series) -> dict[str, float]:
    return {label: row[label] for label in CHEXPERT14.labels if not np.isnan(row[label])}


def test_four_findings(root):
    rows = frame(root)
    assert rows["study_id"].tolist() == ["nih_readers:00000001_000", "nih_readers:00000002_001"]
    assert rows["patient_id"].tolist() == ["nih14:1", "nih14:2"]
    assert rows["path"].tolist() == ["images/00000001_000.jpg", "images/00000002_001.jpg"]
    assert set(rows["split"]) == {"readers"}
    crosswalk = {f"four_findings: {column}": label for column, label in FOUR_FINDINGS.items()}
    assert NIH14ReadersSource("r", root, FOUR).provenance["crosswalk"] == crosswalk
    assert marked(rows.iloc[0]) == {"Fracture": 0, "Lung Lesion": 1, "Lung Opacity": 0, "Pneumothorax": 1}
    assert marked(rows.iloc[1]) == {"Fracture": 1, "Lung Opacity": 1, "Pneumothorax": 0}


def test_all_findings(root):
    normal, sick = (marked(row) for _, row in frame(root, ALL, study="all_findings").iterrows())
    judged = set(CHEXPERT14.labels) - {"Enlarged Cardiomediastinum", "Fracture", "Lung Opacity", "Support Devices"}
    assert set(normal) == set(sick) == judged
    assert {label for label, mark in normal.items() if mark} == {"No Finding"}
    assert {label for label, mark in sick.items() if mark} == {"Lung Lesion", "Pleural Effusion"}


def test_abnormal_may_be_written_as_a_number_and_hedges_stay_uncertain(root):
    line = positive("00000003_000.png", "Edema", abnormal="1").replace("NO", "hedge", 1)
    write(root / ALL, ALL_HEADER, line, positive("00000001_000.png", abnormal="HEDGE"))
    sick, unsure = (marked(row) for _, row in frame(root, ALL, study="all_findings").iterrows())
    assert (sick["No Finding"], sick["Edema"], sick["Atelectasis"]) == (0, 1, -1)
    assert unsure["No Finding"] == -1


def test_several_files_of_one_study(root):
    write(root / "validation_labels.csv", FOUR_HEADER, four("00000003_000.png", "NO,NO,NO,NO"))
    assert len(frame(root, [FOUR, "validation_labels.csv"])) == 3
    with pytest.raises(ValueError, match=r"images that an earlier row has .* 'nih_readers:00000001_000', 'nih_r"):
        frame(root, [FOUR, FOUR])


def test_all_faults_come_in_one_message(root):
    write(
        root / FOUR,
        FOUR_HEADER,
        four("00000001_000.png", "NO,PERHAPS,NO,NO"),
        four("00000001_000.png", "NO,NO,NO,NO"),
        four("00000002_001.png", "NO,NO,NO,NO", patient="7"),
        four("00000009_000.png", "NO,NO,NO,NO"),
    )
    with pytest.raises(ValueError, match="4 kinds of fault") as caught:
        frame(root)
    for fault in (
        "1 rows with a mark other than YES, NO, HEDGE, 1, 0, -1 or blank: line 2 'Pneumothorax=PERHAPS'",
        "images that an earlier row has",
        "1 rows whose Patient ID is not the one in the image's name: line 4 '00000002_001.png'",
        "1 of 4 images are not in the folder: nih_readers:00000009_000; complete the download (there or in images*",
    ):
        assert fault in str(caught.value)


def test_wrong_files_and_options_say_so(root, caplog):
    with pytest.raises(ValueError, match="lacks the columns 'Image Index'"):
        frame(root, ALL)
    with pytest.raises(ValueError, match=r"choose one of: four_findings, all_findings"):
        frame(root, study="five_findings")
    with pytest.raises(FileNotFoundError, match=r"no .*nowhere\.csv for data set 'nih_readers'"):
        frame(root, "nowhere.csv")
    write(root / "individual_readers.csv", "Image ID,Patient ID,Reader ID,Abnormal", "00000001_000.png,1,4343,0")
    with pytest.raises(ValueError, match="holds the marks of single readers"):
        frame(root, "individual_readers.csv", study="all_findings")
    (root / "images/00000001_000.jpg").unlink()
    assert len(frame(root, allow_missing=True)) == 1
    assert "1 of 2 images are missing" in caplog.text
