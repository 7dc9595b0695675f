"""Run directories: layout, one owner at a time, the config that made the run, every attempt at it, the DONE marker."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from chexreason.files import locked, write_json, write_text
from chexreason.renames import current, old_names
from chexreason.signals import PREEMPTED, await_first_rank, on_leave

DONE, LOCK, CONFIG, STAGE, ATTEMPTS = "DONE", "LOCK", "config.yaml", "stage.json", "attempts.jsonl"
PREDICTIONS, METRICS, SCORES = "predictions.jsonl", "metrics.json", "scores.parquet"
CHECKPOINT = "checkpoints/last.ckpt"
COLLAPSE = "collapse.json"  # the signs of mode collapse that were reported
STOPPED = "stopped"  # in DONE: why the collapse watch ended the run early
ADAPTERS = "adapters_sha256"  # in CONFIG: a run belongs to the weights it began with, not to the folder they lay in
STATES = ("running", "done", "failed", "cut", "preempted")  # of a line of ATTEMPTS
# In the environment: the run directory of this process, where whoever started it records its attempts.
ATTEMPT_OF = "CHEXREASON_ATTEMPT_OF"
# Settings that may change between a run and its continuation: they do not change what is computed.
_FREE = ("paths", "logger", "callbacks.progress", "run_dir", "num_workers", "requeue")

# What a launcher sets in the environment: 0 in all of them, or unset, marks the first process of a run.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
_LAUNCH = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RunError(RuntimeError):
    """A run directory or a study's folder cannot be used as asked; the message names it and the way out."""


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


def attempts(run_dir: str | Path) -> list[dict[str, Any]]:
    """The starts and ends of a run, oldest first, as ``record_attempt`` wrote them; other lines are left out."""
    return read_events(Path(run_dir) / ATTEMPTS)


def record_attempt(run_dir: str | Path, digest: str, state: str, **facts: Any) -> None:
    """Append a start ("running") or an end (another of STATES) to ATTEMPTS, on the disk before this returns.

    The line holds ``time`` (s since 1970), ``state``, ``digest`` (of the run's config), ``host``, ``pid``, ``job_id``
    (SLURM's, or null) and ``facts``; at an end these are ``seconds``, ``status`` or ``signal``, and ``error``. A last
    line that a kill left unfinished is removed first.
    """
    own = {"host": socket.gethostname(), "pid": os.getpid(), "job_id": os.environ.get("SLURM_JOB_ID")}
    event = {"time": time.time(), "state": state, "digest": digest, **own, **facts}
    path = Path(run_dir) / ATTEMPTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        last = file.read().split(b"\n")[-1]
        if last and _event(last) is None:
            file.truncate(file.tell() - len(last))
        elif last:  # its line end alone is missing
            file.write(b"\n")
        file.write(json.dumps(event).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that are attempts, in order; none where there is no file."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    return [event for event in map(_event, lines) if event is not None]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("state") not in STATES or not isinstance(event.get("digest"), str):
        return None
    numbers = (event.get("time"), event.get("seconds", 0.0))
    return event if all(isinstance(n, float) and math.isfinite(n) for n in numbers) else None


def digest(cfg: DictConfig) -> str:
    """Hash of what a config computes, unresolved: the same on every machine, whether the data are there or not."""
    computed = settings(OmegaConf.to_container(cfg, resolve=False))  # type: ignore[arg-type]
    return hashlib.sha256(json.dumps(computed, sort_keys=True, default=str).encode()).hexdigest()[:16]


def is_first_rank() -> bool:
    """True in the one process of a run that writes its directory; known before there is a trainer to ask."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


@contextmanager
def launching() -> Iterator[None]:
    """Let Lightning start the further ranks of this job, and leave the process fit to train the next job of a sweep.

    Lightning starts a rank by repeating the command line of this process. In a multirun that line is the whole sweep,
    so it is replaced by one that runs the current job alone, in its directory. At the end the command line, the
    environment variables that Lightning sets and the process group are put back.
    """
    import torch.distributed as dist

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
        job.run.dir = job.runtime.output_dir  # where Lightning lets a rank run
    searched = [f"--config-dir={s.path}" for s in job.runtime.config_sources if s.provider == "command-line"]
    return [*searched, f"--config-name={job.job.config_name}", *job.overrides.task]


@contextmanager
def open_run(run_dir: str | Path, cfg: DictConfig) -> Iterator[Path]:
    """Hold a run directory: lock it, check that its config is this one, record the attempt, time the stage.

    The lock ends with the process, so a killed run never blocks its own resume. Raises RunError when another process
    holds the directory, or when it was begun with another config or adapter. The further ranks of a run only check the
    config.
    """
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not is_first_rank():
        _check_config(folder, cfg)
        with on_leave(await_first_rank):
            yield folder
        return
    refusal = RunError(f"{folder} is in use by another run: wait for it, or choose another name=")
    with locked(folder / LOCK, refusal):
        write_text(folder / CONFIG, OmegaConf.to_yaml(_check_config(folder, cfg)))
        start = time.monotonic()
        earlier = _earlier_seconds(folder)
        recorded = is_done(folder) or os.environ.get(ATTEMPT_OF) == str(folder.resolve())

        def time_stage() -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            seconds = earlier + time.monotonic() - start
            write_json(folder / STAGE, {"name": folder.name, "seconds": seconds, "peak_rss_bytes": peak})

        def preempted(name: str) -> None:
            if not recorded:
                seconds = time.monotonic() - start
                record_attempt(folder, digest(cfg), "preempted", seconds=seconds, status=PREEMPTED, error=name)
            time_stage()

        try:
            with nullcontext() if recorded else _attempt(folder, digest(cfg)), on_leave(preempted):
                yield folder
        finally:
            time_stage()


@contextmanager
def _attempt(folder: Path, own: str) -> Iterator[None]:
    """Record the start and the end of what the block does."""
    record_attempt(folder, own, "running")
    start, state, facts = time.monotonic(), "failed", {"status": 1, "error": f"ended without {folder / DONE}"}
    try:
        yield
        if is_done(folder):
            state, facts = "done", {"status": 0}
    except KeyboardInterrupt:
        state, facts = "cut", {"status": 130}
        raise
    except BaseException as error:
        facts["error"] = "".join(str(error).splitlines()[-1:]) or type(error).__name__
        raise
    finally:
        record_attempt(folder, own, state, seconds=time.monotonic() - start, **facts)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config computes, as dotted keys in today's names: without what may change when a run is continued.

    Paths under ``paths.out`` begin with ``${paths.out}``, so that a study that was moved, or whose folder is spelled in
    another way, is the same study.
    """
    out = (config.get("paths") or {}).get("out")
    place = None if out is None else os.path.normpath(out)
    return {k: _placed(value, place) for k, value in current(_flat(config)).items() if not k.startswith(_FREE)}


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
    if old := list(old_names(_flat(now))):
        raise RunError("; ".join(old))
    hashes = [_adapter_sha256(adapter) for adapter in now.get("adapters") or []]
    now[ADAPTERS] = hashes if all(hashes) else None
    before = _stored(folder)
    if before is None:
        return now
    if before.get(ADAPTERS) is None and is_done(folder):
        now[ADAPTERS] = None  # done before they were recorded: nothing to compare, and nothing to claim
    before[ADAPTERS], now[ADAPTERS] = (
        before.get(ADAPTERS) or now[ADAPTERS],
        now[ADAPTERS] or before.get(ADAPTERS),  # removed since: what was made with them stands
    )
    if changes := _changes(before, now):
        more = f" (+{len(changes) - 5} more)" if len(changes) > 5 else ""
        raise RunError(
            f"{folder} holds a run with another config: {'; '.join(changes[:5])}{more}. "
            "Choose another name= or remove it"
        )
    return now


def _stored(folder: Path) -> dict[str, Any] | None:
    path = folder / CONFIG
    return OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else None  # type: ignore[return-value]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Sequence[str]:
    """``key: old -> new`` of each setting in which two configs differ."""
    old, new = settings(before), settings(now)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in changed]


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
