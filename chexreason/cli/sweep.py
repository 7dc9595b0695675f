"""Run the cells of a table: ``python -m chexreason.cli.sweep sweep=table2 scale=tiny``. Again, it continues."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chexreason.confdir import confdir
from chexreason.errors import friendly, known_choices, unknown_choices
from chexreason.runs import settings
from chexreason.sweep.cells import PREPARE, Cell, CellError, wanted
from chexreason.sweep.launch import Job, Launcher, states_of
from chexreason.sweep.ledger import BLOCKED, CUT, DONE, FAILED, Ledger, SweepError, only_sweep

log = logging.getLogger(__name__)
AS_TRAINED = ("model", "prompt")  # an adapter is evaluated with those that it was trained with
COLOURS = {DONE: "green", FAILED: "bold red", BLOCKED: "yellow", CUT: "cyan"}


def cells_of(cfg: DictConfig) -> list[Cell]:
    """The cells ``cfg.sweep`` wants and what they need, needs first; raises CellError listing its faults."""
    return wanted(OmegaConf.to_container(cfg.sweep, resolve=True))


def jobs_of(cfg: DictConfig, cells: Sequence[Cell]) -> list[Job]:
    """Every cell at every seed, its config composed and hashed; raises CellError listing what does not compose."""
    seeds = list(cfg.seeds or cfg.sweep.get("seeds") or [0])
    jobs: dict[str, Job] = {}
    trained: dict[str, dict[str, str]] = {}
    faults = []
    # inside @hydra.main Hydra is ready, and knows the search paths it was given
    ready = GlobalHydra.instance().is_initialized()
    with nullcontext() if ready else initialize_config_dir(confdir(), version_base="1.3"):
        for cell in cells:
            for seed in seeds if cell.name != PREPARE else seeds[:1]:
                try:
                    job = _job(cfg, cell, int(seed), jobs, trained)
                    jobs[job.name] = job
                except (HydraException, OmegaConfBaseException, CellError) as error:
                    faults.append(f"{cell.name}: {str(error).splitlines()[0]}")
    if faults:
        raise CellError(f"{len(faults)} cells of this sweep do not compose:\n  " + "\n  ".join(faults))
    return list(jobs.values())


def _job(cfg: DictConfig, cell: Cell, seed: int, known: Mapping[str, Job], trained: dict[str, dict[str, str]]) -> Job:
    """One cell at one seed; ``trained`` keeps what each train cell chose of ``AS_TRAINED`` for the cells after it."""
    study = Path(cfg.paths.out) / cfg.name
    arguments = [*cell.arguments(study, seed), *cfg.extra[cell.verb], f"name={cfg.name}"]
    arguments += [] if cell.verb == "prepare" else [f"scale={cfg.scale}"]
    as_trained = trained.get(cell.adapter or "", {}).items() if cell.verb != "train" else ()
    given = {word.partition("=")[0] for word in arguments}
    arguments += [f"{group}={choice}" for group, choice in as_trained if group not in given]
    if unknown := unknown_choices(arguments):
        raise CellError("; ".join(unknown))
    paths = [f"paths.{key}={_quoted(value)}" for key, value in cfg.paths.items() if value is not None]
    composed = compose(cell.verb, [*arguments, *paths], return_hydra_config=True)
    with open_dict(composed):
        choices = composed.pop("hydra").runtime.choices
    if cell.verb == "train":
        trained[cell.name] = {group: choices[group] for group in AS_TRAINED}
    run_dir = cell.run_dir(study, seed)
    name = cell.name if cell.verb == "prepare" else f"{cell.name}/seed{seed}"
    needs = tuple(need if need == PREPARE else f"{need}/seed{seed}" for need in cell.needs)
    data = Path(cfg.paths.data) / composed.data.name / composed.data.home
    return Job(
        name,
        _digest(cell.verb, composed, [known[need].digest for need in needs if need in known]),
        composed.phase.name if cell.verb == "train" else cell.verb,
        seed,
        (sys.executable, "-m", f"chexreason.cli.{cell.verb}", *arguments, *paths),
        run_dir,
        data / "manifest.parquet" if cell.verb == "prepare" else run_dir / "DONE",
        study / "logs" / f"{name.replace('/', '-')}.log",
        needs,
    )


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "\\'") + "'"


def _digest(verb: str, composed: DictConfig, needs: Sequence[str]) -> str:
    """Hash of a command's config, unresolved, and of those it needs: the same on every machine, data at hand or not."""
    computed = settings(OmegaConf.to_container(composed, resolve=False))
    return hashlib.sha256(json.dumps([verb, computed, *needs], sort_keys=True, default=str).encode()).hexdigest()[:16]


def costs(cfg: DictConfig, jobs: Sequence[Job], ledger: Ledger) -> dict[str, float]:
    """Seconds each job will take: as others of its kind took here, else the config's estimate."""
    known = cfg.minutes.get(cfg.scale) or {}
    return {job.name: ledger.seconds(job.kind) or 60.0 * known.get(job.kind, 0.0) for job in jobs}


def show_plan(cfg: DictConfig, jobs: Sequence[Job], ledger: Ledger) -> None:
    """Print each job's state, cost and needs, and what the rest costs."""
    states, cost = states_of(jobs, ledger, cfg.attempts), costs(cfg, jobs, ledger)
    table = Table("cell", "kind", "state", "cost", "needs", title=f"{cfg.name}: {len(jobs)} cells", box=None)
    for job in jobs:
        state = Text(states[job.name], style=COLOURS.get(states[job.name], ""))
        spent = "" if states[job.name] == DONE else _duration(cost[job.name])
        table.add_row(job.name, job.kind, state, spent, ", ".join(n for n in job.needs if n != PREPARE))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    left = [job for job in jobs if states[job.name] != DONE]
    rest = _duration(sum(cost[job.name] for job in left) / cfg.jobs)
    print(f"{len(jobs) - len(left)} of {len(jobs)} done; the rest takes about {rest} with jobs={cfg.jobs}")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def show_end(jobs: Sequence[Job], states: dict[str, str], ledger: Ledger) -> int:
    """Print what did not succeed, red, with its log and the way out; returns how many cells did not."""
    console = Console(stderr=True, soft_wrap=True)
    bad = [job for job in jobs if states[job.name] != DONE]
    for job in bad:
        last = ledger.last(job.digest)
        where = f"\n    log: {job.log}" if states[job.name] == FAILED else ""
        line = f"{states[job.name].upper()} {job.name}: {last.get('error', '')}{where}"
        console.print(Text(line, style=COLOURS.get(states[job.name], "")))
    failures = [ledger.failures(job.digest) for job in bad if states[job.name] == FAILED]
    if failures:
        again = max(failures) + 1
        console.print(
            f"Once the cause is mended, a failed cell is tried again with attempts={again} (make: ATTEMPTS={again})"
        )
    print(f"{len(jobs) - len(bad)} of {len(jobs)} cells done")
    return len(bad)


def sweep(cfg: DictConfig) -> int:
    """Run or plan the sweep ``cfg`` describes; returns how many of its cells are not done."""
    study = Path(cfg.paths.out) / cfg.name
    jobs = jobs_of(cfg, cells_of(cfg))
    if cfg.plan:
        show_plan(cfg, jobs, Ledger(study / "ledger.jsonl"))
        return 0
    with only_sweep(study):
        ledger = Ledger(study / "ledger.jsonl")
        ledger.mend()
        states = Launcher(ledger, slots=cfg.jobs, attempts=cfg.attempts, say=log.info).run(jobs)
        return show_end(jobs, states, ledger)


@known_choices
@hydra.main(version_base="1.3", config_path=confdir(), config_name="sweep")
@friendly(CellError, SweepError, ValueError, OSError)
def main(cfg: DictConfig) -> None:
    """Run the sweep; exit status 1 when a cell failed or is blocked."""
    if sweep(cfg):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
