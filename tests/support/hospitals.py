"""Vendors' trees as downloaded: their file names, headers and habits, invented patients, tiny films."""

from __future__ import annotations

import csv
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
PATIENT = "83986048869429233163798823568146098"  # and a digit
PADCHEST_FILMS = """7|_k6ga29|0|S1|1930.0|M|PA|Physician|['pleural effusion', 'cardiomegaly']
7|_00-163-058|0|S1|1930.0|M|L|Physician|['pleural effusion', 'cardiomegaly']
1|_a1|1|S2|1950|F|AP_horizontal|RNN_model|['normal']
2|_a2|1|S3|||AP|RNN_model|[' Normal', 'nsg tube', '']
3|_a3|10|S4|1951|F|PA|RNN_model|['normal', 'scoliosis']
4|_a4|10|S5|1952|F|PA|RNN_model|['unchanged']
5|_a5|10|S6|1953|F|PA|RNN_model|nan
6|_a6|53|S7|1954|M|PA|Physician|['nodule', 'apical "x"']
8|_a8|53|S8|1955|M|EXCLUDE|RNN_model|['exclude']"""


def padchest_tree(root: Path, mark: str = ",") -> Path:
    """PadChest: a csv with ``mark`` between cells, and films of 16 bits in numbered folders."""
    root.mkdir(exist_ok=True)
    with (root / PADCHEST_CSV).open("w", newline="") as file:
        table = csv.writer(file, delimiter=mark)
        table.writerow(PADCHEST_HEADER.split(","))
        for i, film_of in enumerate(PADCHEST_FILMS.split("\n")):
            digit, name, folder, study, birth, sex, view, method, labels = film_of.split("|")
            facts = (i, f"{PATIENT}{digit}{name}.png", folder, "20140915", study, PATIENT + digit, birth, sex, "", view)
            said = ("Manual", "No", "CR", f"{i}.0", "sin hallazgos , agudos .", method, labels, "[]", f"[{labels}]")
            table.writerow([*facts, *said, "[]", "[]"])
            (root / folder).mkdir(exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 4096, (8, 8)).astype(np.uint16)
            Image.fromarray(pixels).save(root / folder / facts[1])
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
