"""Where a run's figures go: a CSV file always, Weights & Biases where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger


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
