"""Training curves that survive a kill: the metric files of all attempts of a run as one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from chexreason.files import write_text


def merge_attempts(folder: Path, out: Path) -> pd.DataFrame:
    """Join ``<folder>/version_<k>/metrics.csv`` in order and write ``out``.

    A resumed attempt repeats the steps between its checkpoint and the kill: its rows replace the earlier ones from
    its first step on. One that was cut before its first row replaces nothing. Raises FileNotFoundError when there is
    no metric file.
    """
    paths = sorted(folder.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.removeprefix("version_")))
    if not paths:
        raise FileNotFoundError(f"no metrics.csv under {folder}")
    attempts = [pd.read_csv(path) for path in paths if path.read_text().strip()]
    attempts = [rows for rows in attempts if rows["step"].notna().any()]
    merged = attempts[0] if attempts else pd.DataFrame(columns=["step"])
    for later in attempts[1:]:
        merged = pd.concat([merged[merged["step"] < later["step"].min()], later], ignore_index=True)
    write_text(out, merged.to_csv(index=False))
    return merged
