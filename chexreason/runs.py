"""Run directories: one owner at a time, a DONE marker, the config that made it, what each stage cost."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from chexreason.files import write_json, write_text

DONE, LOCK, CONFIG, STAGE = "DONE", "LOCK", "config.yaml", "stage.json"
# Settings that may change between a run and its continuation: they do not change what is computed.
_FREE = ("paths", "logger", "callbacks.progress", "run_dir", "num_workers")

# What a launcher sets in the environment: 0 in all of them, or unset, marks the first process of a run.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
_LAUNCH = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RunError(RuntimeError):
    """A run directory cannot be used as asked; the message names the directory and the way out."""


def is_done(run_dir: str | Path) -> bool:
    """True when the run in this directory has finished."""
    return (Path(run_dir) / DONE).is_file()


def mark_done(run_dir: str | Path, result: Mapping[str, object]) -> None:
    """Write the DONE marker with the run's result, atomically, as its last act."""
    write_json(Path(run_dir) / DONE, result)


def read_done(run_dir: str | Path) -> dict[str, Any]:
    """The result a finished run left."""
    result: dict[str, Any] = json.loads((Path(run_dir) / DONE).read_text())
    return result


def is_first_rank() -> bool:
    """True in the one process of a run that writes its directory; known before there is a trainer to ask."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


@contextmanager
def launching() -> Iterator[None]:
    """Lets Lightning start this job again once a further rank, and hands on a process that can do so for another job.

    Of a sweep it would start the whole command again: the ranks get this job's overrides and directory instead.
    """
    environment, arguments = {name: os.environ.get(name) for name in _LAUNCH}, sys.argv
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        sys.argv = [sys.argv[0], *_single_job()]
    try:
        yield
    finally:
        sys.argv = arguments
        for name, value in environment.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _single_job() -> list[str]:
    """Arguments that run the current job of a sweep alone, in its own directory."""
    job = HydraConfig.get()
    with read_write(job), open_dict(job):
        job.run.dir = job.runtime.output_dir  # where Lightning tells a rank to run
    searched = [f"--config-dir={s.path}" for s in job.runtime.config_sources if s.provider == "command-line"]
    return [*searched, f"--config-name={job.job.config_name}", *job.overrides.task]


@contextmanager
def open_run(run_dir: str | Path, cfg: DictConfig) -> Iterator[Path]:
    """Hold a run directory: lock it, check that its config is this one, time the stage.

    The lock goes with the process, so a killed run never blocks its own resume. Raises RunError when another process
    holds the directory, or when it was begun with another config. Further ranks of a run only check the config.
    """
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not is_first_rank():
        _check_config(folder, cfg)
        yield folder
        return
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{folder} is in use by another run: wait for it, or choose another name=") from None
        _check_config(folder, cfg)
        write_text(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        start = time.monotonic()
        earlier = _earlier_seconds(folder)
        try:
            yield folder
        finally:
            stage = {"name": folder.name, "seconds": earlier + time.monotonic() - start, "peak_rss_bytes": _peak_rss()}
            write_json(folder / STAGE, stage)


def _check_config(folder: Path, cfg: DictConfig) -> None:
    path = folder / CONFIG
    if not path.is_file():
        return
    before, now = _flat(OmegaConf.load(path)), _flat(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and not k.startswith(_FREE)]
    if changed:
        shown = "; ".join(f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in changed[:5])
        more = f" (+{len(changed) - 5} more)" if len(changed) > 5 else ""
        raise RunError(f"{folder} holds a run with another config: {shown}{more}. Choose another name= or remove it")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if OmegaConf.is_dict(node) or isinstance(node, dict):
        items = {}
        for key in node:
            items.update(_flat(node[key], f"{prefix}{key}."))
        return items
    value = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    return {prefix.rstrip("."): value}


def _earlier_seconds(folder: Path) -> float:
    path = folder / STAGE
    return float(json.loads(path.read_text())["seconds"]) if path.is_file() else 0.0


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
