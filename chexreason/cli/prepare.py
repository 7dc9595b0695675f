"""Prepare the sets of a data config, guard them and audit them: ``python -m chexreason.cli.prepare data=phantom``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from chexreason.cli import command

if TYPE_CHECKING:
    from chexreason.data.leakage import Leak
    from chexreason.data.manifest import Manifest

log = logging.getLogger(__name__)


def prepare(cfg: DictConfig) -> dict[str, Manifest]:
    """Every set of ``data=``, guarded and audited; raises LeakageError after the page that shows the leak is written.

    An overlap between two sets passes where ``data.allow_overlap`` names the pair.
    """
    from chexreason.build.data import build_manifests
    from chexreason.data.leakage import SUSPECTED, check_leaks, find_leaks

    prepared = build_manifests(cfg, on_error=cfg.on_error, workers=cfg.workers, check=cfg.check)
    frames = {name: manifest.frame for name, manifest in prepared.items()}
    allowed = [list(pair) for pair in cfg.data.get("allow_overlap") or ()]
    vague = [name for name, manifest in prepared.items() if manifest.provenance.get("vendor", "") is None]
    leaks = find_leaks(frames, allowed, vague)
    for leak in (leak for leak in leaks if leak.allowed):
        level = logging.INFO if leak.kind == "alike" else logging.WARNING  # the pairs are on the page; most are none
        log.log(level, "%s: %s", SUSPECTED.get(leak.kind, "allowed by data.allow_overlap"), leak)
    audit(cfg, prepared, leaks)
    check_leaks(leaks)
    return prepared


def audit(cfg: DictConfig, prepared: Mapping[str, Manifest], leaks: Sequence[Leak]) -> None:
    """The audit page of the prepared sets under ``paths.out/name``, unless ``audit=false``."""
    from chexreason.audit.audit_page import PAGE_NAME, write_audit
    from chexreason.build.data import declaration, public_sets, set_policy
    from chexreason.data.credentialed import named_agreement
    from chexreason.labels.catalog import label_set

    if not cfg.audit:
        return
    folder = Path(cfg.paths.out) / cfg.name
    nodes = cfg.data.sets
    write_audit(
        prepared,
        {name: set_policy(cfg, name) for name in prepared},
        folder,
        title=f"Data audit: {cfg.data.name}",
        home=cfg.data.home,
        agreement=[(one, other) for one, other in cfg.data.get("agreement") or ()],
        leaks=leaks,
        credentialed=() if named_agreement(cfg.allow_export) else set(prepared) - public_sets(cfg),
        label_lists={name: label_set(nodes[name].label_list) for name in prepared if nodes[name].get("label_list")},
        declared={name: declaration(cfg, name, manifest)["text"] for name, manifest in prepared.items()},
        attributions=[Path(path) for path in cfg.data.attributions],
    )
    log.info("audit page: %s", folder / PAGE_NAME)


def describe(name: str, manifest: Manifest) -> str:
    """One line: images, patients, splits."""
    splits = ", ".join(f"{split} {n:,}" for split, n in manifest.split_counts().items())
    return f"{name}: {len(manifest.frame):,} images of {manifest.frame['patient_id'].nunique():,} patients ({splits})"


@command()
def main(cfg: DictConfig) -> None:
    """Prepare every set of ``data=`` and say what it holds and what its labels mean."""
    from chexreason.build.data import declaration

    for name, manifest in prepare(cfg).items():
        log.info("%s", describe(name, manifest))
        log.info("%s", declaration(cfg, name, manifest)["text"].rstrip())
    if not cfg.check:
        log.warning("check=false: no image was opened, so leakage was guarded by patient, not by picture")


if __name__ == "__main__":
    main()
