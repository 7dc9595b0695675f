"""Time and memory of full-size manifests: MIMIC-CXR-JPG's csv files to a written manifest, and the paper's sampler.

    make bench-manifests

The csv files are synthetic, with the vendor's names, headers and numbers of rows; no image exists. Each case runs in a
process of its own, for its peak memory is then its own. Prints a table and writes ``out/bench/manifests.json``; there
is no peer that builds such a manifest, so the bars are absolute.
"""

from __future__ import annotations

import gzip
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import Row, printed_by, report, row
from chexreason.data import manifest as manifests
from chexreason.data.sampling import draw_samples
from chexreason.data.selection import PaperSelection
from chexreason.data.sources.mimic_cxr import LABEL_FILES, METADATA, SPLIT, MIMICCXRSource
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import silent

SIZES = (10_000, 100_000, 377_110)  # the last is MIMIC-CXR-JPG
POOL = 243_334  # its images in AP or PA view
# Share of positive studies, about as in the release, in label order: what matters is that labels are rare and common
POSITIVE = (0.20, 0.20, 0.05, 0.12, 0.03, 0.02, 0.03, 0.23, 0.33, 0.24, 0.01, 0.07, 0.05, 0.29)
VIEWS, VIEW_SHARES = ("AP", "PA", "LATERAL", "LL", ""), (0.39, 0.255, 0.22, 0.09, 0.045)


def write_csv(root: Path, name: str, table: pd.DataFrame) -> None:
    """One packed csv, as shipped."""
    (root / f"{name}.gz").write_bytes(gzip.compress(table.to_csv(index=False).encode(), compresslevel=1))


def marks(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Independent labels at MIMIC's prevalence; of the rest a tenth is negative, a twentieth uncertain, most blank."""
    positive = rng.random((n, len(CHEXPERT14))) < np.array(POSITIVE)  # [N, 14]
    rest = rng.choice([0.0, -1.0, np.nan], positive.shape, p=[0.1, 0.05, 0.85])
    return pd.DataFrame(np.where(positive, 1.0, rest), columns=list(CHEXPERT14.labels))


def write_vendor(root: Path, n: int) -> None:
    """The three csv files of ``n`` images; 1.65 images a study and 3.5 studies a patient, as in the release."""
    rng = np.random.default_rng(0)
    study = np.sort(rng.integers(0, int(n / 1.65), n))
    subject = (study / 3.5).astype(np.int64)
    ids = pd.DataFrame({"subject_id": 10_000_000 + subject, "study_id": 50_000_000 + study})
    words = rng.integers(0, 2**32, (n, 4))
    dicom = [f"{i:08x}-{a:08x}-{b:08x}-{c:08x}-{d:08x}" for i, (a, b, c, d) in enumerate(words)]
    rest = {
        "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
        "ViewPosition": rng.choice(VIEWS, n, p=VIEW_SHARES),
        "Rows": 3056,
        "Columns": 2544,
        "StudyDate": 21800506,
        "StudyTime": 213014.531,
        "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
        "ViewCodeSequence_CodeMeaning": "postero-anterior",
        "PatientOrientationCodeSequence_CodeMeaning": "Erect",
    }
    write_csv(root, METADATA, pd.DataFrame({"dicom_id": dicom, **ids, **rest}))
    part = np.array(["train", "validate", "test"])[np.digitize(subject % 100, (97, 98))]
    write_csv(root, SPLIT, pd.DataFrame({"dicom_id": dicom, **ids[["study_id", "subject_id"]], "split": part}))
    studies = ids.drop_duplicates().reset_index(drop=True)
    write_csv(root, LABEL_FILES["chexpert"], pd.concat([studies, marks(len(studies), rng)], axis=1))


def build_manifest(folder: str) -> dict[str, float]:
    """Seconds of each step from the csv files to the manifest on disk, all views, no image touched."""
    root = Path(folder)
    start = time.perf_counter()
    source = MIMICCXRSource("mimic", root, views=None)
    raw = source.prepare(root / "out", silent)
    read = time.perf_counter()
    manifest = manifests.Manifest(manifests.conform(raw), source.provenance, root)
    manifests.write_manifest(manifest, root / "out" / "manifest.parquet")
    end = time.perf_counter()
    return {"rows": len(manifest.frame), "read": read - start, "write": end - read, "all": end - start}


def sample(pool: str) -> dict[str, float]:
    """Seconds to draw 2,000 + 1,000 of ``pool`` images by the paper's rule, each label in 5 % of both."""
    n = int(pool)
    rng = np.random.default_rng(0)
    positive = marks(n, rng).to_numpy() == 1.0
    patients = [f"p{i // 4}" for i in range(n)]
    keys = [f"s{i}" for i in range(n)]
    sizes = {"sft": PaperSelection.sft, "rl": PaperSelection.rl}
    start = time.perf_counter()
    draw = draw_samples(positive, patients, keys, sizes, PaperSelection.min_share, 0)
    seconds = time.perf_counter() - start
    assert (draw.count >= draw.goal).all()
    return {"all": seconds}


def measured(case: str, argument: str) -> dict[str, float]:
    """The case's figures from a process of its own, its whole peak memory among them."""
    return json.loads(printed_by(__spec__.name, case, argument))


def rows() -> Iterator[Row]:
    """All lines of the table."""
    for n in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write_vendor(Path(folder), n)
            found = measured("manifest", folder)
        assert found["rows"] == n
        case = f"MIMIC manifest, {n:,} rows"
        yield row(case, "s", found["all"], bar=60.0 if n == SIZES[-1] else None)
        yield row(case, "us a row", found["all"] / n * 1e6)
        yield row(case, "GiB peak", found["peak_gib"])
    found, case = measured("sample", str(POOL)), f"sampler, 3,000 of {POOL:,}"
    yield row(case, "s", found["all"], bar=30.0)
    yield row(case, "GiB peak", found["peak_gib"], bar=2.0)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        report("manifests", rows())
    else:
        figures = {"manifest": build_manifest, "sample": sample}[sys.argv[1]](sys.argv[2])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
        print(json.dumps({**figures, "peak_gib": peak}))
