"""The report of a study, from its prediction and metric files alone: ``python -m chexreason.cli.report name=demo``."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from chexreason.build.data import build_labels, declaration, load_manifest, public_sets, training_prevalence
from chexreason.cli import command
from chexreason.files import file_sha256
from chexreason.reports.report import build_report
from chexreason.reports.study_tables import print_summary
from chexreason.runs import COLLAPSE, CONFIG, SCORES, STOPPED, is_done, read_done, read_stage
from chexreason.statistics.score_files import MADE_FOR, answers_sha256

log = logging.getLogger(__name__)


def report_study(cfg: DictConfig) -> dict[str, Any]:
    """Build ``report.html`` and ``report.json`` of the study ``cfg.name``; returns what the JSON holds.

    Raises FileNotFoundError naming the arm whose predictions are missing and the command that makes them.
    """
    study = Path(cfg.paths.out) / cfg.name
    arms = {arm: study / "eval" / arm / "predictions.jsonl" for arm in cfg.arms}
    for folder in filter(is_done, (*map(Path, cfg.runs.values()), *(path.parent for path in arms.values()))):
        read_done(folder)  # it vouches for the files that are read here
    for arm, path in arms.items():
        if not path.is_file():
            words = [f"name={cfg.name}", f"arm={arm}", f"data={cfg.data.name}", f"paths.out={cfg.paths.out}"]
            words += [f"adapters=[{cfg.runs[arm]}/adapter/best]" if arm in cfg.runs else "adapters=[...]"] * (
                arm != "base"
            )
            evaluation = shlex.join(["python", "-m", "chexreason.cli.evaluate", *words])
            raise FileNotFoundError(
                f"{path} is missing: run `{evaluation}` first, or leave the arm out with arms=[...]"
            )
    label_set = build_labels(cfg)
    runs = {arm: Path(folder) for arm, folder in cfg.runs.items() if (Path(folder) / "metrics.csv").is_file()}
    folders = {f"train {arm}": folder for arm, folder in runs.items()}
    folders |= {f"evaluate {arm}": path.parent for arm, path in arms.items()}
    return build_report(
        arms,
        study,
        title=cfg.title,
        label_set=label_set,
        train_prevalence=training_prevalence(cfg, label_set, needed=False),
        curves={arm: folder / "metrics.csv" for arm, folder in runs.items()},
        stages=[stage | {"name": name} for name, folder in folders.items() if (stage := read_stage(folder))],
        attributions=[Path(path) for path in cfg.data.attributions],
        n_resamples=cfg.n_resamples,
        seed=cfg.seed,
        n_cases=cfg.n_cases,
        images=cfg.images,
        public=public_sets(cfg),
        allow_export=cfg.allow_export,
        notes=_notes(cfg, runs),
        cards=_cards(study, arms),
        declarations={name: declaration(cfg, name, load_manifest(cfg, name)) for name in cfg.data.test},
    )


def _cards(study: Path, arms: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """The cards of the arms' operating points; raises ValueError on one that was made of other scores or answers."""
    cards = {}
    for arm, answers in arms.items():
        path, scored = study / "calibrate" / arm / "card.json", study / "scores" / arm
        if not path.is_file():
            continue
        cards[arm] = card = json.loads(path.read_bytes())
        stale = [n for n, place in card["places"].items() if place["scores_sha256"] != file_sha256(scored / SCORES)]
        if stale or read_done(scored).get(MADE_FOR) != answers_sha256(answers):
            raise ValueError(
                f"{path} was made of other answers or scores than those of {arm} now: run chexreason.cli.scores and "
                f"chexreason.cli.calibrate of it again, or remove {path.parent}"
            )
    return cards


def _notes(cfg: DictConfig, runs: dict[str, Path]) -> dict[str, str]:
    notes = {"data": str(cfg.data.name), "answered with": str(cfg.labels.name)}
    for name in cfg.data.sets:
        notes[f"set {name}"] = f"{load_manifest(cfg, name).provenance.get('studies')} studies prepared"
    for arm, folder in runs.items():
        notes[f"config of {arm}"] = str(folder / CONFIG)
        if is_done(folder) and (stopped := read_done(folder).get(STOPPED)):
            notes[f"{arm} was stopped"] = stopped
        if (signs := folder / COLLAPSE).is_file():
            notes[f"signs of collapse in {arm}"] = "; ".join(_told(signs))
    if cfg.allow_export is not None:
        notes["pictures of sets not declared public, shown under"] = str(cfg.allow_export)
    return notes


def _told(signs: Path) -> list[str]:
    try:
        return [f"rollout {event['rollout']}: {event['reason']}" for event in json.loads(signs.read_bytes())]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{signs} is damaged: remove it, and the report goes without these signs") from None


@command()
def main(cfg: DictConfig) -> None:
    """Build the report, print its tables, and say where the page is."""
    print_summary(report_study(cfg))
    log.info("report: %s", Path(cfg.paths.out) / cfg.name / "report.html")


if __name__ == "__main__":
    main()
