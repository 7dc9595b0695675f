"""Prepare the sets of a data config, guard them and audit them: ``python -m chexreason.cli.prepare data=phantom``."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from chexreason.cli import command
from chexreason.confdir import choices

if TYPE_CHECKING:
    from chexreason.data.leakage import Leak
    from chexreason.data.manifest import Manifest

log = logging.getLogger(__name__)
OF_A_TABLE = ("split", "split_column", "vendor", "path_column", "patient_column", "label_columns", "view_column")
OF_A_TABLE += ("age_column", "sex_column")


def prepare(cfg: DictConfig) -> dict[str, Manifest]:
    """Every set of ``data=``, guarded and audited; raises LeakageError after the page that shows the leak is written.

    An overlap between two sets passes where ``data.allow_overlap`` names the pair.
    """
    from chexreason.build.data import build_manifests
    from chexreason.build.data_config import complete_data
    from chexreason.data.leakage import SUSPECTED, check_leaks, find_leaks

    complete_data(cfg)
    if lost := [path for path in cfg.data.attributions if not Path(path).is_file()]:
        raise ValueError(
            f"data.attributions: no file {', '.join(lost)}; write the licence there, or leave it out of the list"
        )
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


def take_table(cfg: DictConfig) -> str:
    """Make ``cfg.data`` the data config of ``table=`` or ``images=``; returns its text, "" without either.

    Broken films of a folder are set aside unless ``on_error=stop`` is said. Raises ValueError on the options alone,
    beside data=, or with a name that a data config has.
    """
    given = {key: cfg[key] for key in ("root", "policy", *OF_A_TABLE) if cfg[key] is not None}
    if cfg.images is not None and (alien := [*given.keys() - {"vendor"}, *["table"] * (cfg.table is not None)]):
        raise ValueError(f"images= is a folder of films without labels: {', '.join(alien)} belongs to a csv")
    if cfg.table is None and cfg.images is None:
        if given:
            raise ValueError(f"{', '.join(given)} belongs to table=; for data= see data.sets.<set>")
        return ""
    verb = "table" if cfg.images is None else "images"
    csv, policy = Path(cfg[verb]).absolute(), given.pop("policy", "ignore")
    stem = re.sub(r"\W+", "_", csv.name.partition(".")[0] if verb == "table" else csv.name)
    name = stem if OmegaConf.is_interpolation(cfg, "name") else cfg.name
    if name in choices("data"):
        raise ValueError(f"there is a data config '{name}': say data={name}, or give the {verb} another name=")
    told = HydraConfig.get().overrides.task
    if words := [word for word in told if re.match(r"[+~]*data[.=]", word)]:
        raise ValueError(f"{verb}= is a data config of its own: leave {' '.join(words)} out, or {verb}=")
    if verb == "images":
        source = {"_target_": "chexreason.data.sources.film_folder.FilmFolder", "root": str(csv), "name": name, **given}
        cfg.on_error = cfg.on_error if "on_error=stop" in told else "quarantine"
    else:
        given["root"] = str(Path(given.get("root", csv.parent)).absolute())
        source = {"_target_": "chexreason.data.sources.table.TableSource", "name": name, "csv": str(csv), **given}
    with open_dict(cfg):
        cfg.data = {"name": name, "sets": {name: {"public": False, "policy": policy, "source": source}}}
        if given.get("split", "test") == "test" and "split_column" not in given:
            cfg.data.val = []  # nothing is chosen on it
    from chexreason.build.data_config import complete_data

    complete_data(cfg)
    return f"# {csv.name or name}: python -m chexreason.cli.prepare data={name}\n" + OmegaConf.to_yaml(cfg.data)


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

    keep = take_table(cfg)
    for name, manifest in prepare(cfg).items():
        log.info("%s", describe(name, manifest))
        log.info("%s", declaration(cfg, name, manifest)["text"].rstrip())
    if not cfg.check:
        log.warning("check=false: no image was opened, so leakage was guarded by patient, not by picture")
    if keep:
        print(f"\nTo keep this set, save the lines below as conf/data/{cfg.data.name}.yaml\n\n{keep}", end="")


if __name__ == "__main__":
    main()
