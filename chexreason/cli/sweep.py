"""Run the cells of a table: ``python -m chexreason.cli.sweep sweep=table2 scale=tiny``. Again, it continues."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chexreason.build.jobs import cells_of, jobs_of
from chexreason.cli import ask_for_requeue, command
from chexreason.errors import printable
from chexreason.progress import duration
from chexreason.runs import RunError, is_done, read_done
from chexreason.signals import PREEMPTED, continues, say
from chexreason.sweep.cells import PREPARE
from chexreason.sweep.launch import Job, failures, last_error, launch, only_sweep, seconds_of, states_of
from chexreason.sweep.old_ledger import convert_ledger

log = logging.getLogger(__name__)
_COLOURS = {"done": "green", "failed": "bold red", "blocked": "yellow", "cut": "cyan"}


def costs(cfg: DictConfig, jobs: Sequence[Job]) -> dict[str, float]:
    """Seconds each job will take: as others of its kind took in this study, else the config's estimate."""
    known = cfg.minutes.get(cfg.scale) or {}
    taken = seconds_of(Path(cfg.paths.out) / cfg.name)
    return {job.name: taken.get(job.kind) or 60.0 * known.get(job.kind, 0.0) for job in jobs}


def show_plan(cfg: DictConfig, jobs: Sequence[Job]) -> None:
    """Print each job's state, cost and needs, and what the rest costs."""
    states, cost = states_of(jobs, cfg.attempts), costs(cfg, jobs)
    table = Table("cell", "kind", "state", "cost", "needs", title=f"{cfg.name}: {len(jobs)} cells", box=None)
    for job in jobs:
        state = Text(states[job.name], style=_COLOURS.get(states[job.name], ""))
        spent = "" if states[job.name] == "done" else duration(cost[job.name])
        table.add_row(job.name, job.kind, state, spent, ", ".join(n for n in job.needs if n != PREPARE))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    left = [job for job in jobs if states[job.name] != "done"]
    rest = duration(sum(cost[job.name] for job in left) / cfg.jobs)
    print(f"{len(jobs) - len(left)} of {len(jobs)} done; the rest takes about {rest} with jobs={cfg.jobs}")


def show_end(jobs: Sequence[Job], states: dict[str, str]) -> int:
    """Print what did not succeed, red, with its log and the way out; returns how many cells did not."""
    console = Console(stderr=True, soft_wrap=True)
    bad = [job for job in jobs if states[job.name] != "done"]
    failed = [job for job in bad if states[job.name] == "failed"]
    for job in bad:
        lacking = ", ".join(need for need in job.needs if states[need] != "done")
        command = shlex.join(job.command)
        line = {
            "failed": f"FAILED {job.name}: {last_error(job)}\n    log: {job.log}\n    command: {command}",
            "cut": f"PREEMPTED {job.name}: the same command continues it",
            "blocked": f"BLOCKED {job.name}: needs {lacking}",
            "waiting": f"WAITING {job.name}: needs {lacking}",
        }[states[job.name]]
        console.print(Text(printable(line), style=_COLOURS.get(states[job.name], "")))
    if failed:
        again = max(failures(job) for job in failed) + 1
        console.print(
            f"Once the cause is mended, a failed cell is tried again with attempts={again} (make: ATTEMPTS={again})"
        )
    print(f"{len(jobs) - len(bad)} of {len(jobs)} cells done")
    return len(bad)


def damages(jobs: Sequence[Job]) -> Iterator[str]:
    """What is damaged of the finished cells, with the way out and the command it is for, a line each."""
    for job in jobs:
        try:
            if is_done(job.run_dir):
                read_done(job.run_dir)
        except ValueError as fault:
            yield f"{job.name}: {fault}. Its command: {shlex.join(job.command)}"


def sweep(cfg: DictConfig) -> int:
    """Run or plan the sweep ``cfg`` describes; returns the exit status: PREEMPTED where cells were, and none failed."""
    study = Path(cfg.paths.out) / cfg.name
    try:
        convert_ledger(study)
    except (OSError, RunError) as error:
        if not cfg.plan:
            raise
        log.warning("the ledger of an earlier version is not read: %s", error)
    jobs = jobs_of(cfg, cells_of(cfg))
    damaged = list(damages(jobs))
    if cfg.plan:
        for fault in damaged:
            log.warning("%s", fault)
        show_plan(cfg, jobs)
        return 0
    if damaged:
        raise RunError("\n".join(damaged))
    with only_sweep(study):
        states = launch(jobs, slots=cfg.jobs, limit=cfg.attempts, say=log.info)
        left = show_end(jobs, states)
    if {*states.values()} & {"failed", "blocked"} or not left:
        return int(left > 0)
    say(f"a preempted cell: stopped; {continues()}")
    ask_for_requeue(cfg)
    return PREEMPTED


@command(RunError)
def main(cfg: DictConfig) -> None:
    """Run the sweep; exit status 1 when a cell failed or is blocked, 75 when the same command continues it."""
    if status := sweep(cfg):
        raise SystemExit(status)


if __name__ == "__main__":
    main()
