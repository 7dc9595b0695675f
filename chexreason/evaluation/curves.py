"""Training curves that survive a kill: the metric files of all attempts of a run as one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from chexreason.files import write_text


def merge_attempts(folder: Path, out: Path) -> pd.DataFrame:
    """Join ``<folder>/version_<k>/metrics.csv`` in order and write ``out``.

    A resumed attempt repeats the steps between its checkpoint and the kill: its rows replace the earlier ones from
    its first step on. Raises FileNotFoundError when there is no metric file.
    """
    paths = sorted(folder.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.removeprefix("version_")))
    if not paths:
        raise FileNotFoundError(f"no metrics.csv under {folder}")
    merged = pd.read_csv(paths[0])
    for path in paths[1:]:
        later = pd.read_csv(path)
        merged = pd.concat([merged[merged["step"] < later["step"].min()], later], ignore_index=True)
    write_text(out, merged.to_csv(index=False))
    return merged
