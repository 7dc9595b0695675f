"""Films that nobody labelled: a folder of images or DICOM files as a data set, and whose films they are."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chexreason.data.dicom import DEFLATED
from chexreason.data.image import DICOM_SIGNATURE, DICOM_SIGNATURE_AT, opened
from chexreason.data.leakage import vendor_of
from chexreason.data.manifest import parameters
from chexreason.data.sources.columns import first_of
from chexreason.data.sources.tree import VendorFolder, films, without_suffix
from chexreason.files import temporary_of, value_sha256
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import Track

log = logging.getLogger(__name__)
SALT_NAME = "salt"  # in the folder of a prepared set, for its owner alone
OWN_PATIENT = "film-"  # begins the id of a patient of whom nothing but one film is known
_NOBODY = re.compile(r"[\W_0]*|(anon|unknown|none|null|test|de-?id)\w*", re.IGNORECASE)  # what stands for all patients
_HEADER = DICOM_SIGNATURE_AT + len(DICOM_SIGNATURE)
MIN_SIDE = 32  # pixels: less is smaller than a patch or two of a vision tower
_SALT = 32  # bytes of a salt
_MANY = 20  # films of one patient
_NO_FOLDER = "say images=FOLDER, the folder of the films"


@dataclass(frozen=True)
class FilmFolder(VendorFolder):
    """Every image and DICOM file below ``root``, as test films of which no label is judged.

    A film with a side below ``MIN_SIDE`` is left out, and said. A study is named by the path of its file, with the
    suffix where two files differ by that alone. The patient is a salted hash of DICOM's PatientID; a film without one
    has a patient of its own. ``vendor`` is as in ``TableSource``.
    """

    vendor: str | None = None

    @property
    def provenance(self) -> dict[str, object]:
        """Parameters, and a hash of the files' names and sizes."""
        sizes = {path: (self.image_root / path).stat().st_size for path in self.files()}
        vendor = {"vendor": vendor_of(self.vendor) if self.vendor else None}
        return {"source": "film folder", **parameters(self, "root"), **vendor, "files_sha256": value_sha256(sizes)}

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """The manifest's rows; raises FileNotFoundError or ValueError where there is no folder or no film in it."""
        files = self.files()
        if tiny := dict.fromkeys(path for path in files if _side(self.image_root / path) < MIN_SIDE):
            told = (self.name, len(tiny), len(files), MIN_SIDE, first_of(tiny))
            log.warning("%s: %d of %d films are left out, for a side has fewer than %d pixels: %s", *told)
            files = [path for path in files if path not in tiny]
        if not files:
            raise ValueError(f"'{self.name}': no film of {MIN_SIDE} pixels below {self.image_root}; {_NO_FOLDER}")
        stems = Counter(map(without_suffix, files))
        if twins := sorted(stem for stem, n in stems.items() if n > 1):
            log.warning("%s: %d names have several files, each a film: %s", self.name, len(twins), first_of(twins))
        studies = [path if stems[stem := without_suffix(path)] > 1 else stem for path in files]
        vendor = vendor_of(self.vendor or self.name)
        unknown = dict.fromkeys(("view", "sex"), "") | dict.fromkeys(("age", *CHEXPERT14.labels), float("nan"))
        return pd.DataFrame(
            {
                "study_id": [f"{self.name}:{study}" for study in studies],
                "patient_id": [f"{vendor}:{own}" for own in file_patients(self.image_root, files, folder, progress)],
                "dataset": self.name,
                "split": "test",
                "path": files,
                **unknown,
            }
        )

    def files(self) -> list[str]:
        """The paths of all films below ``root``, also of those that ``prepare`` leaves out."""
        if not self.image_root.is_dir():
            raise FileNotFoundError(f"'{self.name}': no folder {self.image_root}; {_NO_FOLDER}")
        every = sorted(path for paths in films(self.image_root).values() for path in paths)
        found = [path for path in every if without_suffix(path) != path or _is_dicom(self.image_root / path)]
        if not found:
            raise ValueError(f"'{self.name}': no image and no DICOM file below {self.image_root}; {_NO_FOLDER}")
        return found


def file_patients(root: Path, paths: Sequence[str], folder: Path, progress: Track) -> list[str]:
    """The patient of each of the files ``paths`` below ``root``: a hash of DICOM's PatientID, else the file itself.

    The salt of the hash is drawn once and kept in ``folder``: equal films have equal patients at every preparation, and
    no hash can be looked up without it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    salt, found = _salt(folder / SALT_NAME), []
    for path in progress(paths, len(paths)):
        tag = _patient_tag(root / path)
        kind, known = (OWN_PATIENT, path) if _NOBODY.fullmatch(tag.partition("\n")[0]) else ("dicom-", tag)
        found.append(kind + hashlib.blake2b(known.encode(), digest_size=8, key=salt).hexdigest())
    ((_, most),) = Counter(found).most_common(1)
    if most > max(_MANY, len(found) / 2):
        log.warning("%s: %d of %d films have one PatientID: are they one patient's?", root, most, len(found))
    return found


def _salt(path: Path) -> bytes:
    """Random bytes, the same ones once they are there; in a file that nobody else may read (0600)."""
    if not path.exists():
        temporary = temporary_of(path)  # a kill leaves no salt that is short, or none
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_SALT))
        os.replace(temporary, path)
    if len(salt := path.read_bytes()) != _SALT:
        raise ValueError(f"{path} is damaged: remove it and prepare again, and patients get other ids")
    return salt


def _patient_tag(path: Path) -> str:
    """PatientID and who issued it; "" of any other file, or without pydicom."""
    try:
        import pydicom

        with path.open("rb") as file:
            header = file.read(2**16)
        if header[DICOM_SIGNATURE_AT:_HEADER] != DICOM_SIGNATURE or DEFLATED in header:
            return ""  # whoever reads the pixels of a deflated file refuses it
        tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "IssuerOfPatientID"])
        return f"{tags.get('PatientID') or ''}\n{tags.get('IssuerOfPatientID') or ''}"
    except Exception:  # damaged: whoever reads its pixels says how
        return ""


def _side(path: Path) -> float:
    """The shorter side of an image in pixels; infinity where its header does not say so: the decoder will."""
    try:
        with opened(path) as image:
            return min(image.size)
    except Exception:  # as Pillow's many
        return float("inf")


def _is_dicom(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(_HEADER)[DICOM_SIGNATURE_AT:] == DICOM_SIGNATURE
    return False
