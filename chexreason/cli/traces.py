"""Reasoning traces from a teacher, verified and exported: ``python -m chexreason.cli.traces data=phantom``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from chexreason.cli import command
from chexreason.errors import printable
from chexreason.files import write_json, write_text
from chexreason.traces.store import StoreError, open_store

if TYPE_CHECKING:
    from chexreason.labels.schema import LabelSet
    from chexreason.traces.task import Task
    from chexreason.types import Study

log = logging.getLogger(__name__)
DATABASE_NAME, REPORT_NAME = "traces.db", "acceptance"


def traces(cfg: DictConfig) -> dict[str, Any]:
    """Ask about every study that still needs a trace, export those that pass, and return the acceptance report.

    Whatever ends the run early, what has been accepted is exported; ``stopped`` in the report says why, and ``left``
    how many of the studies asked about have neither an accepted trace nor used up their attempts. Raises ExportError
    before anything is sent where studies that are not declared public would leave the machine.
    """
    from chexreason.build.data import build_labels
    from chexreason.traces.acceptance import acceptance, as_markdown
    from chexreason.traces.budget import Budget
    from chexreason.traces.collect import ask_all, to_ask
    from chexreason.traces.export import export
    from chexreason.traces.task import Limits, judge_again

    label_set, folder = build_labels(cfg), Path(cfg.folder)
    studies, unaskable = _studies(cfg, label_set)
    task, limits = _task(cfg, label_set, studies), Limits(**OmegaConf.to_container(cfg.limits, resolve=True))
    with open_store(folder / DATABASE_NAME) as store:
        store.begin(task.identity, studies, label_set)
        judge_again(task, store, studies)
        budget = Budget(cfg.budget, store.spent(), task.teacher.tariff, task.teacher.endpoint)
        try:
            stopped = ask_all(task, store, studies, limits, budget)
        finally:
            export(store, folder)
            report = acceptance(store, label_set, limits.attempts, unaskable)
            write_json(folder / f"{REPORT_NAME}.json", report)
            write_text(folder / f"{REPORT_NAME}.md", as_markdown(report))
        left = len(to_ask(store, studies, limits))
    return report | {"stopped": stopped, "left": left}


def _studies(cfg: DictConfig, label_set: LabelSet) -> tuple[list[Study], int]:
    """The studies to ask about, and how many have labels that no answer fits."""
    from chexreason.build.data import load_studies
    from chexreason.data.sampling import subset
    from chexreason.traces.template import TemplateTeacher

    found = load_studies(cfg, cfg.set, list(cfg.splits), label_set)
    answerable = [study for study in found if TemplateTeacher().can_write(study, label_set)]
    return subset(answerable, cfg.limit, cfg.seed), len(found) - len(answerable)


def _task(cfg: DictConfig, label_set: LabelSet, studies: list[Study]) -> Task:
    from chexreason.build.data import build_prompt, make, public_sets
    from chexreason.traces.endpoint import check_export
    from chexreason.traces.instruction import Instruction
    from chexreason.traces.task import Task

    teacher = make(cfg.teacher, _convert_="all")
    return Task(
        teacher=teacher,
        instruction=Instruction(**OmegaConf.to_container(cfg.teacher_instruction, resolve=True)),
        prompt=build_prompt(cfg),
        label_set=label_set,
        agreement=check_export(studies, teacher.endpoint, public_sets(cfg), cfg.data.allow_export),
        side=cfg.image_side,
        seed=cfg.seed,
    )


@command(StoreError, ModuleNotFoundError)
def main(cfg: DictConfig) -> None:
    """Ask, verify, export, and say what came of it."""
    from chexreason.traces.acceptance import as_markdown
    from chexreason.traces.export import JSONL_NAME

    report = traces(cfg)
    print(printable(as_markdown(report)))
    log.info("%d traces: %s", report["accepted"], Path(cfg.folder) / JSONL_NAME)
    if report["stopped"] or report["left"]:
        why = report["stopped"] or "some studies got no answer (see above)"
        raise StoreError(
            f"stopped: {why}. {report['left']} studies are open (budget={cfg.budget}): mend it and run the same "
            f"command again"
        )


if __name__ == "__main__":
    main()
