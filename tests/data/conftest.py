"""Small copies of the vendors' trees: their exact file names and headers, invented patients, tiny JPEGs."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
MIMIC_LABELS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
CHEXPERT_LABELS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
BY_HAND = MIMIC_LABELS.replace("Lung Opacity", "Airspace Opacity")
# subject, study, view of each image, split; the last study has no row in the label files, as eight of the real ones
MIMIC_IMAGES = [
    (10000032, 50414267, "PA", "train"),
    (10000032, 50414267, "LATERAL", "train"),
    (10000032, 53189527, "AP", "train"),
    (10000764, 57375967, "AP", "validate"),
    (10032725, 50331901, "AP", "test"),
    (10032725, 50331901, "LL", "test"),
    (11000183, 51967845, "", "train"),
    (19999733, 57132437, "PA", "train"),
]
MARKS = {
    50414267: ",,,1.0,,,,0.0,,,,,-1.0,",
    53189527: "1.0,,,,,,,,,1.0,,,,1.0",
    57375967: ",,,,,,,,1.0,,,,,",
    50331901: ",1.0,,,,,,,,-1.0,,,,",
    51967845: ",,,,,1.0,,,,,,,,",
}


def dicom_id(i: int) -> str:
    """An identifier in the vendor's form: five groups of eight hexadecimal digits."""
    return "-".join([f"{i:08x}", "bde0afdd", "112c0b34", "7bc16630", "4e384014"])


def jpeg(path: Path) -> None:
    """An 8 x 8 grey JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(path)


@pytest.fixture
def mimic_tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes MIMIC-CXR-JPG of a release and returns its root; ``edit`` changes the text of a csv by its short name."""

    def build(release: str = "2.0.0", packed: bool = True, **edit: Callable[[str], str]) -> Path:
        root = tmp_path / "mimic-cxr-jpg" / release
        metadata, split = [METADATA], ["dicom_id,study_id,subject_id,split"]
        for i, (subject, study, view, part) in enumerate(MIMIC_IMAGES):
            step = '"CHEST (PA, LAT)"' if view in ("PA", "LATERAL") else "CHEST (PORTABLE AP)"
            metadata.append(
                f"{dicom_id(i)},{subject},{study},{step},{view},2544,3056,21800506,213014.531,{step},,Erect"
            )
            split.append(f"{dicom_id(i)},{study},{subject},{part}")
            jpeg(root / f"files/p{str(subject)[:2]}/p{subject}/s{study}/{dicom_id(i)}.jpg")
        subjects = {study: subject for subject, study, _, _ in MIMIC_IMAGES}
        labels = [f"{subjects[study]},{study},{marks}" for study, marks in MARKS.items()]
        texts = {
            "metadata": metadata,
            "split": split,
            "chexpert": [f"subject_id,study_id,{MIMIC_LABELS}", *labels],
            "negbio": [f"subject_id,study_id,{MIMIC_LABELS}", *(row.replace("-1.0", "1.0") for row in labels)],
        }
        for short, lines in texts.items():
            text = edit.get(short, str)("\n".join(lines) + "\n").encode()
            name = root / f"mimic-cxr-2.0.0-{short}.csv"
            (name.with_name(name.name + ".gz") if packed else name).write_bytes(gzip.compress(text) if packed else text)
        if release == "2.1.0":
            text = f"study_id,{BY_HAND}\n50331901,0,1,,,,,,1,0,,,,,\n"
            (root / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text(edit.get("radiologist", str)(text))
        return root

    return build


@pytest.fixture
def chexpert_tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes CheXpert under a release's folder name and returns that folder; ``edit`` is by csv name without suffix."""

    def build(release: str = "CheXpert-v1.0", **edit: Callable[[str], str]) -> Path:
        root = tmp_path / release
        header = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_LABELS}"
        train = [
            ("train/patient00001/study1/view1_frontal.jpg", "Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0"),
            ("train/patient00002/study2/view1_frontal.jpg", "Unknown,87,Frontal,PA,,,-1.0,1.0,,-1.0,,,,,,,1.0,"),
            ("train/patient00002/study1/view2_lateral.jpg", "Male,0,Lateral,,,,,1.0,,,,,,,,,,"),
        ]
        valid = [
            ("valid/patient64541/study1/view1_frontal.jpg", "Male,73,Frontal,AP,0.0,1.0,1.0,1.0,0,0,0,0,0,0,0,0,0,0")
        ]
        test = {
            "test/patient64741/study1": (("view1_frontal.jpg",), "0,1,1,1,0,0,0,0,0,0,0,0,0,1"),
            "test/patient64742/study1": (("view1_frontal.jpg", "view2_lateral.jpg"), "1,0,0,0,0,0,0,0,0,0,0,0,0,0"),
            "test/patient64743/study1": (("view1_frontal.jpg", "view2_frontal.jpg"), "0,1,0,0,0,1,0,0,0,0,1,0,0,0"),
        }
        texts = {
            "train": [header, *(f"{release}/{path},{row}" for path, row in train)],
            "valid": [header, *(f"{release}/{path},{row}" for path, row in valid)],
            "groundtruth": [
                f"Study,{CHEXPERT_LABELS}",
                *(f"CheXpert-v1.0/{study},{row}" for study, (_, row) in test.items()),
            ],
            "test_labels": [
                f"Path,{CHEXPERT_LABELS}",
                *(f"{study}/{view},{row}" for study, (views, row) in test.items() for view in views),
            ],
        }
        for path in [*(p for p, _ in (*train, *valid)), *(f"{s}/{v}" for s, (views, _) in test.items() for v in views)]:
            jpeg(root / path)
        for short, lines in texts.items():
            (root / f"{short}.csv").write_text(edit.get(short, str)("\n".join(lines) + "\n"))
        return root

    return build
