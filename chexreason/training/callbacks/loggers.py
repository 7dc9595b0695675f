"""Where a run's figures go: a CSV file always, Weights & Biases where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from chexreason.files import write_text


def csv_logger(run_dir: Path) -> Logger:
    """A new ``metrics/version_<k>/metrics.csv``: one file an attempt, because the logger empties a folder in use."""
    attempts = run_dir / "metrics"
    taken = len(list(attempts.iterdir())) if attempts.is_dir() else 0
    return CSVLogger(str(run_dir), name="metrics", version=taken)


def wandb_logger(
    run_dir: Path, *, project: str, entity: str | None, group: str | None, offline: bool, name: str, config: Mapping
) -> Logger:
    """A run whose id is a function of its directory: a resumed run goes on, two runs never share one."""
    return WandbLogger(
        project=project,
        entity=entity,
        group=group,
        offline=offline,
        id=sha256(str(run_dir.resolve()).encode()).hexdigest()[:16],
        resume="allow",
        save_dir=str(run_dir),
        name=name,
        config=dict(config),
    )


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
