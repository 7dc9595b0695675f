"""Vendors' trees as downloaded: their file names, headers and habits, invented patients, tiny films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexreason.data.sources.joined import PADCHEST_CSV


def film(path: Path, pixels: np.ndarray, bits: int = 12, **elements) -> Path:
    """Writes ``pixels`` as a digital radiograph with ``bits`` stored, MONOCHROME2 unless ``elements`` say otherwise."""
    pydicom = pytest.importorskip("pydicom", reason="reading DICOM is an extra: pip install 'chexreason[dicom]'")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"  # digital X-ray
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta.TransferSyntaxUID = elements.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    for name, value in elements.items():
        setattr(dataset, name, value)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,"
    "LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
)
PATIENT = "839860488694292331637988235681460987"
PADCHEST_FILMS = [  # image, folder, study, patient, birth, sex, projection, method, labels
    (
        f"{PATIENT}_k6ga29.png",
        "0",
        "S1",
        PATIENT,
        "1930.0",
        "M",
        "PA",
        "Physician",
        "['pleural effusion', 'cardiomegaly']",
    ),
    (
        f"{PATIENT}_00-163-058.png",
        "0",
        "S1",
        PATIENT,
        "1930.0",
        "M",
        "L",
        "Physician",
        "['pleural effusion', 'cardiomegaly']",
    ),
    (f"{PATIENT[:-1]}1_a1.png", "1", "S2", f"{PATIENT[:-1]}1", "1950", "F", "AP_horizontal", "RNN_model", "['normal']"),
    (
        f"{PATIENT[:-1]}2_a2.png",
        "1",
        "S3",
        f"{PATIENT[:-1]}2",
        "",
        "",
        "AP",
        "RNN_model",
        "[' Normal', 'nsg tube', '']",
    ),
    (
        f"{PATIENT[:-1]}3_a3.png",
        "10",
        "S4",
        f"{PATIENT[:-1]}3",
        "1951",
        "F",
        "PA",
        "RNN_model",
        "['normal', 'scoliosis']",
    ),
    (f"{PATIENT[:-1]}4_a4.png", "10", "S5", f"{PATIENT[:-1]}4", "1952", "F", "PA", "RNN_model", "['unchanged']"),
    (f"{PATIENT[:-1]}5_a5.png", "10", "S6", f"{PATIENT[:-1]}5", "1953", "F", "PA", "RNN_model", "nan"),
    (
        f"{PATIENT[:-1]}6_a6.png",
        "53",
        "S7",
        f"{PATIENT[:-1]}6",
        "1954",
        "M",
        "PA",
        "Physician",
        "['nodule', 'apical \"x\"']",
    ),
    (f"{PATIENT[:-1]}7_a7.png", "53", "S8", f"{PATIENT[:-1]}7", "1955", "M", "EXCLUDE", "RNN_model", "['exclude']"),
]


def padchest_tree(root: Path, mark: str = ",") -> Path:
    """PadChest: a csv with ``mark`` between cells, and films of 16 bits in numbered folders."""

    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if mark in text or '"' in text else text

    lines = [PADCHEST_HEADER.replace(",", mark)]
    for i, (image, folder, study, patient, birth, sex, view, method, labels) in enumerate(PADCHEST_FILMS):
        facts = (
            str(i),
            image,
            folder,
            "20140915",
            study,
            patient,
            birth,
            sex,
            "POSTEROANTERIOR",
            view,
            "Manual",
            "No",
            "CR",
        )
        said = (f"{i}.0", "sin hallazgos , agudos .", method, labels, "[]", f"[{labels}]", "[]", "[]")
        lines.append(mark.join(map(cell, (*facts, *said))))
        path = root / folder / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 4096, (8, 8)).astype(np.uint16)).save(path)
    (root / PADCHEST_CSV).write_text("\n".join(lines) + "\n")
    return root


VINDR_COLUMNS = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
    "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
    "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,"
    "Tuberculosis,Other diseases,No finding"
)
VINDR_TRAIN = {  # by film, what each reader marks
    0: ("Nodule/Mass", "Lung tumor", "Tuberculosis"),
    1: ("No finding", "No finding", "Pneumonia"),
    2: ("Cardiomegaly|Pneumothorax", "Cardiomegaly", ""),
    3: ("Edema", "No finding"),  # one reader's row is lost
}


def vindr_tree(root: Path) -> Path:
    """VinDr-CXR: one row a reader in train, one a film in test; DICOM films of both polarities."""
    columns = VINDR_COLUMNS.split(",")

    def row(*keys: str, found: str) -> str:
        return ",".join([*keys, *(str(int(column in found.split("|"))) for column in columns)])

    train = [
        row(f"{i:032x}", f"R{reader + 8}", found=found)
        for reader in range(3)
        for i, readings in VINDR_TRAIN.items()
        for found in readings[reader : reader + 1]
    ]
    test = [row(f"{i + 100:032x}", found=found) for i, found in enumerate(("Pleural effusion", "Rib fracture|ILD"))]
    for part, header, rows in (("train", "image_id,rad_id", train), ("test", "image_id", test)):
        file = root / "annotations" / f"image_labels_{part}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([f"{header},{VINDR_COLUMNS}", *rows]) + "\n")
        (root / part).mkdir()
        for i, image in enumerate(dict.fromkeys(line.split(",")[0] for line in rows)):
            pixels = np.random.default_rng(1000 * len(rows) + i).integers(0, 4096, (8, 8)).astype(np.uint16)
            film(root / part / f"{image}.dicom", pixels, PhotometricInterpretation=f"MONOCHROME{i % 2 + 1}")
    return root
