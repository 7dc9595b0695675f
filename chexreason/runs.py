"""Run directories: one owner at a time, a DONE marker, the config that made it, what each stage cost."""

from __future__ import annotations

import fcntl
import hashlib
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
from chexreason.renames import current

DONE, LOCK, CONFIG, STAGE = "DONE", "LOCK", "config.yaml", "stage.json"
COLLAPSE = "collapse.json"  # signs of mode collapse, as they were told
STOPPED = "stopped"  # in DONE: why a run was ended before its time by what watches it
ADAPTERS = "adapters_sha256"  # in CONFIG: a run belongs to the weights it began with, not to the folder they lay in
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
    holds the directory, or when it was begun with another config or adapter. Further ranks of a run only check these.
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
        write_text(folder / CONFIG, OmegaConf.to_yaml(_check_config(folder, cfg)))
        start = time.monotonic()
        earlier = _earlier_seconds(folder)
        try:
            yield folder
        finally:
            stage = {"name": folder.name, "seconds": earlier + time.monotonic() - start, "peak_rss_bytes": _peak_rss()}
            write_json(folder / STAGE, stage)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config computes, as dotted keys: without what may change between a run and its continuation.

    Paths under ``paths.out`` begin with ``${paths.out}``, so that a study that was moved, or whose folder is spelled in
    another way, is the same study. Names are today's, whichever version wrote the config.
    """
    out = (config.get("paths") or {}).get("out")
    place = None if out is None else os.path.normpath(out)
    named = current(_flat(config))
    return {key: _placed(value, place) for key, value in named.items() if not key.startswith(_FREE)}


def _placed(value: Any, out: str | None) -> Any:
    if isinstance(value, list):
        return [_placed(item, out) for item in value]
    if isinstance(value, dict):
        return {key: _placed(item, out) for key, item in value.items()}
    if out is None or not isinstance(value, str):
        return value
    path = os.path.normpath(value)
    return "${paths.out}" + path[len(out) :] if path == out or path.startswith(out + os.sep) else value


def _check_config(folder: Path, cfg: DictConfig) -> dict[str, Any]:
    """What the directory's CONFIG is to hold: ``cfg`` resolved, and the hashes of its adapters where they are known."""
    now: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    hashes = [_adapter_sha256(adapter) for adapter in now.get("adapters") or []]
    now[ADAPTERS] = hashes if all(hashes) else None
    path = folder / CONFIG
    if not path.is_file():
        return now
    before: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[assignment]
    if before.get(ADAPTERS) is None and is_done(folder):
        now[ADAPTERS] = None  # done before they were recorded: nothing to compare, and nothing to claim
    before[ADAPTERS], now[ADAPTERS] = (
        before.get(ADAPTERS) or now[ADAPTERS],
        now[ADAPTERS] or before.get(ADAPTERS),  # removed since: what was made with them stands
    )
    old, new = settings(before), settings(now)
    if changed := [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]:
        shown = "; ".join(f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in changed[:5])
        more = f" (+{len(changed) - 5} more)" if len(changed) > 5 else ""
        raise RunError(f"{folder} holds a run with another config: {shown}{more}. Choose another name= or remove it")
    return now


def _adapter_sha256(folder: str) -> str | None:
    """Hash of an adapter's weights; None where they are not on this disk."""
    for path in sorted(Path(folder).glob("adapter_model.*")):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return None


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    items: dict[str, Any] = {}
    for key, value in node.items():
        items.update(_flat(value, f"{prefix}{key}."))
    return items


def _earlier_seconds(folder: Path) -> float:
    path = folder / STAGE
    return float(json.loads(path.read_text())["seconds"]) if path.is_file() else 0.0


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
