"""The rows of a manifest, made up or read by a source."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from chexreason.data.manifest import conform
from chexreason.data.prepare import Source
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import silent


def manifest_rows(name: str = "x", n: int = 4, **columns: object) -> pd.DataFrame:
    """``n`` test studies of ``n`` patients of a set, all labels absent; ``columns`` replace these, or are added."""
    base = {
        "study_id": [f"{name}:{i}" for i in range(n)],
        "patient_id": [f"{name}:p{i}" for i in range(n)],
        "dataset": name,
        "split": "test",
        "path": [f"images/{i}.png" for i in range(n)],
        "view": "PA",
        "age": 60,
        "sex": "F",
        **dict.fromkeys(CHEXPERT14.labels, 0.0),
    }
    return pd.DataFrame(base | columns)


def rows_of(source: Source) -> pd.DataFrame:
    """The manifest's rows of a source whose images stay where they are."""
    return conform(source.prepare(Path("unused"), silent))
