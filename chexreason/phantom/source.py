"""A phantom hospital as a data set: renders its films, labels them its own way, returns the manifest's rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from chexreason.data.manifest import parameters
from chexreason.files import whole
from chexreason.phantom.institution import Institution, institution, raw_labels
from chexreason.phantom.patient import PhantomStudy, sample_patient
from chexreason.phantom.render import render_film, sample_study
from chexreason.progress import Track

RENDERER_VERSION = 1  # raise it whenever equal parameters give other pixels or labels
_SPLITS = ("sft", "rl", "val", "test")


@dataclass(frozen=True)
class PhantomSource:
    """Phantom hospital "a" or "b"; ``n`` counts studies by split, ``size`` is the films' side in pixels.

    ``shift`` says how "b" differs from "a" (one of ``SHIFTS``), and ``dose`` how far; its patients are the same ones
    under every shift, with the same findings under all but "prevalence". Raises ValueError on an unknown hospital,
    shift, dose or split.
    """

    name: str
    hospital: str
    shift: str = "both"
    n: Mapping[str, int] = field(default_factory=lambda: {"sft": 2000, "rl": 1000, "val": 300, "test": 500})
    size: int = 160
    seed: int = 0
    dose: float = 1.0

    def __post_init__(self) -> None:
        institution(self.hospital, self.shift, self.dose)
        unknown = sorted(set(self.n) - set(_SPLITS))
        if unknown:
            raise ValueError(f"phantom source '{self.name}': unknown split {unknown} in n; use {list(_SPLITS)}")

    @property
    def image_root(self) -> Path | None:
        """None: the images lie in the manifest's own folder."""
        return None

    @property
    def institution(self) -> Institution:
        """The hospital as this source renders and labels it."""
        return institution(self.hospital, self.shift, self.dose)

    @property
    def provenance(self) -> dict[str, object]:
        """Every parameter the films and labels depend on; a dose of 1 is left out, as before there were doses."""
        return {
            "source": "phantom",
            "renderer_version": RENDERER_VERSION,
            **parameters(self, *["dose"] * (self.dose == 1.0)),
            "rendering": dataclasses.asdict(self.institution.rendering),
            "labelling": dataclasses.asdict(self.institution.labelling),
            **({"case_mix": mix} if (mix := dict(self.institution.case_mix)) else {}),
        }

    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame:
        """Write ``folder/images/<study_id>.png`` and return one manifest row a study, in split order."""
        (folder / "images").mkdir(parents=True, exist_ok=True)
        rows = []
        for split, patient_id, study_id, study in progress(self.studies(), sum(self.n.values())):
            path = f"images/{study_id}.png"
            _save(render_film(study, self.institution.rendering, self.size), folder / path)
            rows.append(self._row(split, patient_id, study_id, path, study))
        return pd.DataFrame(rows)

    def studies(self) -> Iterator[tuple[str, str, str, PhantomStudy]]:
        """Yield (split, patient_id, study_id, study); each patient has one to three visits in one split."""
        for split, wanted in self.n.items():
            done = number = 0
            while done < wanted:
                rng = np.random.default_rng([self.seed, "ab".index(self.hospital), _SPLITS.index(split), number])
                patient = sample_patient(rng)
                patient_id = f"{self.name}-{split}-p{number:06d}"
                visits = min(int(rng.choice((1, 2, 3), p=(0.70, 0.22, 0.08))), wanted - done)
                for visit in range(visits):
                    yield split, patient_id, f"{patient_id}-{visit + 1}", sample_study(rng, patient, self.institution)
                done, number = done + visits, number + 1

    def _row(self, split: str, patient_id: str, study_id: str, path: str, study: PhantomStudy) -> dict[str, object]:
        signs = [dataclasses.asdict(sign) for sign in study.signs]
        return {
            "study_id": study_id,
            "patient_id": patient_id,
            "dataset": self.name,
            "split": split,
            "path": path,
            "view": study.view,
            "age": study.age,
            "sex": study.sex,
            **raw_labels(study, self.institution.labelling, np.random.default_rng([study.seed, 99])),
            "signs": json.dumps(signs),
        }


def _save(film: np.ndarray, path: Path) -> None:
    """Write a grey 8-bit PNG, whole or not at all."""
    with whole(path) as temporary:
        Image.fromarray(film).save(temporary, format="PNG", compress_level=1)
