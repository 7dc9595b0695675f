"""Build the manifests of a data config, every image checked: ``python -m chexreason.cli.prepare data=phantom``."""

from __future__ import annotations

import logging

import hydra
from omegaconf import DictConfig

from chexreason.build import build_manifests
from chexreason.confdir import confdir
from chexreason.data.manifest import ManifestError
from chexreason.errors import friendly

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=confdir(), config_name="prepare")
@friendly(ManifestError, OSError, ValueError)
def main(cfg: DictConfig) -> None:
    """Prepare every set of ``data=`` and say how many studies each split holds."""
    for name, manifest in build_manifests(cfg, on_error=cfg.on_error, workers=cfg.workers).items():
        splits = manifest.frame.groupby("split", sort=False).size()
        counts = ", ".join(f"{split} {n}" for split, n in splits.items())
        patients = manifest.frame["patient_id"].nunique()
        log.info("%s: %d studies of %d patients (%s)", name, len(manifest.frame), patients, counts)


if __name__ == "__main__":
    main()
