"""From a sweep's config to its jobs: every cell at every seed, composed as its command will compose it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from chexreason.build.data_config import complete_data
from chexreason.confdir import confdir
from chexreason.errors import unknown_choices
from chexreason.runs import DONE, as_begun, attempts, digest, settings
from chexreason.sweep.cells import PREPARE, Cell, CellError, wanted
from chexreason.sweep.launch import Job
from chexreason.sweep.old_ledger import digest_then

AS_TRAINED = ("model", "prompt")  # an adapter is evaluated with those that it was trained with


def read_sweep(name: str) -> dict[str, Any]:
    """``conf/sweep/<name>.yaml`` as it is written; raises CellError on a name that is not there."""
    if faults := unknown_choices([f"sweep={name}"]):
        raise CellError(faults[0])
    return OmegaConf.to_container(OmegaConf.load(Path(confdir()) / "sweep" / f"{name}.yaml"))  # type: ignore[return-value]


def cells_of(cfg: DictConfig) -> list[Cell]:
    """The cells ``cfg.sweep`` wants and what they need, needs first; raises CellError listing its faults."""
    return wanted(OmegaConf.to_container(cfg.sweep, resolve=True))


def jobs_of(cfg: DictConfig, cells: Sequence[Cell]) -> list[Job]:
    """Every cell at every seed, its config composed and hashed; raises CellError listing what does not compose."""
    seeds = list(cfg.seeds or cfg.sweep.get("seeds") or [0])
    jobs, faults = [], []
    trained: dict[str, dict[str, str]] = {}
    then: dict[str, str] = {}
    # inside @hydra.main Hydra is ready, and knows the search paths it was given
    ready = GlobalHydra.instance().is_initialized()
    with nullcontext() if ready else initialize_config_dir(confdir(), version_base="1.3"):
        for cell in cells:
            for seed in seeds if cell.name != PREPARE else seeds[:1]:
                try:
                    jobs.append(_job(cfg, cell, int(seed), trained, then))
                except (HydraException, OmegaConfBaseException, CellError) as error:
                    faults.append(f"{cell.name}: {str(error).splitlines()[0]}")
    if faults:
        raise CellError(f"{len(faults)} cells of this sweep do not compose:\n  " + "\n  ".join(faults))
    return jobs


def _job(cfg: DictConfig, cell: Cell, seed: int, trained: dict[str, dict[str, str]], then: dict[str, str]) -> Job:
    """One cell at one seed, after those it needs.

    ``trained`` keeps what each train or blend cell chose of ``AS_TRAINED`` for the cells after it, ``then`` the digest
    by which an old ledger knows each job.
    """
    study = Path(cfg.paths.out) / cfg.name
    arguments = [*cell.arguments(study, seed), *cfg.extra[cell.verb], f"name={cfg.name}"]
    arguments += [] if cell.verb == "prepare" else [f"scale={cfg.scale}"]
    given = {word.partition("=")[0] for word in arguments}
    like = (cell.adapter, *cell.parents)[-1]
    as_trained = trained.get(like or "", {}).items() if cell.verb != "train" else ()
    arguments += [f"{group}={choice}" for group, choice in as_trained if group not in given]
    if unknown := unknown_choices(arguments):
        raise CellError("; ".join(unknown))
    if [word for word in arguments if word.lstrip("+").startswith("restart=")]:
        own = shlex.join(["python", "-m", f"chexreason.cli.{cell.verb}", *arguments])
        raise CellError(f"restart= would begin it anew at each attempt: give it once, to the command itself: {own}")
    arguments += [f"paths.{key}={_quoted(value)}" for key, value in cfg.paths.items() if value is not None]
    composed = compose(cell.verb, arguments, return_hydra_config=True)
    with open_dict(composed):
        choices = composed.pop("hydra").runtime.choices
    complete_data(composed)
    if cell.verb in ("train", "blend"):
        trained[cell.name] = {group: choices[group] for group in AS_TRAINED}
    run_dir = cell.run_dir(study, seed)
    as_begun(run_dir, composed)
    name = cell.name if cell.verb == "prepare" else f"{cell.name}/seed{seed}"
    needs = tuple(need if need == PREPARE else f"{need}/seed{seed}" for need in cell.needs)
    computed = settings(OmegaConf.to_container(composed, resolve=False))
    then[name] = digest_then(cell.verb, computed, [then[need] for need in needs if need in then])
    known = any(event["digest"] == then[name] for event in attempts(run_dir))
    data = Path(cfg.paths.data) / composed.data.name / composed.data.home
    return Job(
        name,
        then[name] if known else digest(composed),
        composed.phase.name if cell.verb == "train" else cell.verb,
        (sys.executable, "-m", f"chexreason.cli.{cell.verb}", *arguments),
        run_dir,
        data / "manifest.parquet" if cell.verb == "prepare" else run_dir / DONE,
        study / "logs" / f"{name.replace('/', '-')}.log",
        needs,
    )


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "\\'") + "'"
