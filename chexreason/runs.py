"""Run directories: layout, one owner at a time, the config that made the run, every attempt at it, the DONE marker."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from chexreason.files import file_sha256, read_sealed, value_sha256, without_secrets, write_sealed, write_text, written
from chexreason.owners import locked, peak_rss, remove_leftovers, wall_off
from chexreason.renames import ADDED, as_before, changes, flat, old_names, settings
from chexreason.signals import PREEMPTED, await_first_rank, is_first_rank, on_leave
from chexreason.statistics.partial import holds_batch

log = logging.getLogger(__name__)
DONE, LOCK, CONFIG, STAGE, ATTEMPTS = "DONE", "LOCK", "config.yaml", "stage.json", "attempts.jsonl"
PREDICTIONS, METRICS, SCORES = "predictions.jsonl", "metrics.json", "scores.parquet"
CHECKPOINT = "checkpoints/last.ckpt"
COLLAPSE = "collapse.json"  # the signs of mode collapse that were reported
_FILES = "files"  # in DONE: the SHA-256 of each file that it vouches for
_VOUCHED = (CONFIG, PREDICTIONS, METRICS, SCORES, COLLAPSE, "metrics.csv", "rewards-rank0.csv", "adapter/*/*")
STOPPED = "stopped"  # in DONE: why the collapse watch ended the run early
ADAPTERS = "adapters_sha256"  # in CONFIG: a run belongs to the weights it began with, not to the folder they lay in
STATES = ("running", "done", "failed", "cut", "preempted")  # of a line of ATTEMPTS
ATTEMPT_OF = "CHEXREASON_ATTEMPT_OF"  # in the environment: the run directory whose attempts the starter records
# What a run writes besides its config, its times and its log.
_RESULTS = (DONE, "checkpoints/*", "adapter/*", "metrics/*", "samples.jsonl", "rewards-*", "*.partial.jsonl")
_RESULTS += _VOUCHED[1:]
_PLAIN = (*_VOUCHED, DONE, STAGE, ATTEMPTS, CHECKPOINT, "samples.jsonl", "*.partial.jsonl", "metrics/*/metrics.csv")
_ANEW = "begin it anew with restart=true, which sets aside what is there"
_WAYS_OUT = f"Choose another name=, or {_ANEW}"


class RunError(RuntimeError):
    """A run directory or a study's folder cannot be used as asked; the message names it and the way out."""


def is_done(run_dir: str | Path) -> bool:
    """True when the run in this directory has finished."""
    return (Path(run_dir) / DONE).is_file()


def mark_done(run_dir: str | Path, result: Mapping[str, object]) -> None:
    """Write the DONE marker with the run's result and the hashes of its files, atomically, as its last act."""
    folder = Path(run_dir)
    hashes = {str(p.relative_to(folder)): file_sha256(p) for name in _VOUCHED for p in sorted(folder.glob(name))}
    write_sealed(folder / DONE, {**result, _FILES: hashes})


def read_done(run_dir: str | Path) -> dict[str, Any]:
    """The result a finished run left.

    Raises ValueError, with the way out, where DONE is damaged, or a file that it vouches for is damaged or missing.
    """
    folder = Path(run_dir)
    result = read_sealed(folder / DONE, "delete it and give the command of this run again, which ends the run again")
    for name, sha256 in result.pop(_FILES, {}).items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise ValueError(f"{folder / name} is damaged or missing: {DONE} vouches for another file; {_ANEW}")
    return result


def read_stage(run_dir: str | Path) -> dict[str, Any]:
    """``seconds`` (of all attempts) and ``peak_rss_bytes`` of a run; empty where they are not known."""
    path = Path(run_dir) / STAGE
    try:
        stage = read_sealed(path, "the time of earlier attempts is left out") if path.is_file() else {}
        return stage and {**stage, **{name: float(stage[name]) for name in ("seconds", "peak_rss_bytes")}}
    except (ValueError, TypeError, KeyError) as fault:
        log.warning("%s: %s", path, fault)
        return {}


def holds_run(run_dir: str | Path) -> bool:
    """True where a directory keeps a checkpoint, a whole batch or DONE: another config is then refused in it."""
    folder = Path(run_dir)
    partial = filter(Path.is_file, folder.glob("*.partial.jsonl"))
    return is_done(folder) or (folder / CHECKPOINT).is_file() or any(map(holds_batch, partial))


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
    with written(path), path.open("a+b") as file:
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
    return value_sha256(settings(OmegaConf.to_container(cfg, resolve=False)))[:16]  # type: ignore[arg-type]


@contextmanager
def open_run(run_dir: str | Path, cfg: DictConfig) -> Iterator[Path]:
    """Hold a run directory: lock it, check that its config is this one, record the attempt, time the stage.

    The lock ends with the process, so a killed run never blocks its own resume. With ``cfg.restart`` the directory is
    set aside first, and so is what another config left in it that is no result. Raises RunError when another process
    holds the directory, or when it holds a run of another config or adapter. Further ranks only check the config.
    """
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not is_first_rank():
        _check_config(folder, cfg)
        with on_leave(await_first_rank):
            yield folder
        return
    from chexreason.build.data import is_private  # pandas: not for --help

    if not (folder / LOCK).exists() and is_private(cfg):
        wall_off(folder)
    refusal = RunError(f"{folder} is in use by another run: wait for it, or choose another name=")
    with locked(folder / LOCK, refusal):
        _, same = _check_config(folder, cfg)
        if (restarts(cfg) or not same) and any(next(folder.glob(name), None) for name in _RESULTS):
            _set_aside(folder)
    with locked(folder / LOCK, refusal):
        config, _ = _check_config(folder, cfg)
        if odd := [path for name in _PLAIN for path in folder.glob(name) if path.is_dir()]:
            raise RunError(f"{odd[0]} is a folder, where a run keeps a file: move it away")
        remove_leftovers(folder, folder / "checkpoints", folder / "adapter", elsewhere=0)
        if not is_done(folder):  # which vouches for the one that is there
            write_text(folder / CONFIG, OmegaConf.to_yaml(config))
            for path in (folder / ".hydra").glob("*.yaml"):  # a config file of the user's own may hold a key
                write_text(path, without_secrets(path.read_text(encoding="utf-8")))
        with _attempt(folder, digest(cfg)):
            yield folder


def restarts(cfg: DictConfig) -> bool:
    """True where this start begins anew; a job that SLURM requeued goes on, whatever its command says."""
    return bool(cfg.get("restart")) and os.environ.get("SLURM_RESTART_COUNT", "0") == "0"


def _set_aside(folder: Path) -> None:
    """Rename the directory to the first free ``<folder>.old-<n>`` and make it anew, for the log of this start too."""
    if inner := next(folder.glob(f"*/{LOCK}"), None):
        raise RunError(f"{folder} cannot be set aside: {inner.parent} is a run of its own. Choose another name=")
    aside = next(path for n in count(1) if not os.path.lexists(path := folder.with_name(f"{folder.name}.old-{n}")))
    os.rename(folder, aside)
    folder.mkdir(exist_ok=True)
    shutil.copymode(aside, folder)
    if (aside / ".hydra").is_dir():
        shutil.copytree(aside / ".hydra", folder / ".hydra")
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder.resolve():
            handler.close()  # it opens its file again, in the new folder, at the next line
    log.info("%s begins anew; what was there is now in %s", folder, aside)


@contextmanager
def _attempt(folder: Path, own: str) -> Iterator[None]:
    """Record the start and the end of what the block does, and add its time to STAGE.

    A run that was done before, or whose starter records its attempts, is timed alone.
    """
    recorded = is_done(folder) or os.environ.get(ATTEMPT_OF) == str(folder.resolve())
    start, earlier = time.monotonic(), read_stage(folder).get("seconds", 0.0)

    def end(state: str, facts: Mapping[str, Any]) -> None:
        seconds = time.monotonic() - start
        if not recorded:
            record_attempt(folder, own, state, seconds=seconds, **facts)
        with suppress(OSError):  # a time hides no other error, and fails no run that has ended
            stage = {"name": folder.name, "seconds": earlier + seconds, "peak_rss_bytes": peak_rss()}
            write_sealed(folder / STAGE, stage)

    if not recorded:
        record_attempt(folder, own, "running")
    state, facts = "failed", {"status": 1, "error": f"ended without {folder / DONE}"}
    try:
        with on_leave(lambda name: end("preempted", {"status": PREEMPTED, "error": name})):
            yield
        if is_done(folder):
            state, facts = "done", {"status": 0}
    except KeyboardInterrupt:
        state, facts = "cut", {"status": 130}
        raise
    except BaseException as error:
        facts["error"] = without_secrets("".join(str(error).splitlines()[-1:])) or type(error).__name__
        raise
    finally:
        end(state, facts)


def _check_config(folder: Path, cfg: DictConfig) -> tuple[dict[str, Any], bool]:
    """What CONFIG is to hold, and whether it holds that in all that the phase reads.

    That is ``cfg`` resolved, and the hashes of its adapters where they are known. Keys that are newer than the run are
    left out of it, as of ``cfg``: it stays a run of before them. Raises RunError where the directory holds a run of
    another config, unless this start sets it aside.
    """
    newer = as_begun(folder, cfg)
    now: dict[str, Any] = without_secrets(OmegaConf.to_container(cfg, resolve=True))
    if old := list(old_names(flat(now))):
        raise RunError("; ".join(old))
    for key in newer:
        place, _, name = key.rpartition(".")
        now.get(place, {}).pop(name, None)
    hashes = [adapter_sha256(adapter) for adapter in now.get("adapters") or []]
    now[ADAPTERS] = hashes if all(hashes) else None
    fault = None
    try:
        before = without_secrets(stored_config(folder))
        if before.get(ADAPTERS) is None and not is_done(folder):  # done before they were recorded: nothing is claimed
            before[ADAPTERS] = now[ADAPTERS]
        elif before.get(ADAPTERS) is None or now[ADAPTERS] is None:  # removed since: what was made with them stands
            now[ADAPTERS] = before[ADAPTERS] = before.get(ADAPTERS)
        if changed := changes(before, now):
            more = f" (+{len(changed) - 5} more)" if len(changed) > 5 else ""
            fault = f"{folder} holds a run with another config: {'; '.join(changed[:5])}{more}. {_WAYS_OUT}"
    except RunError as damage:
        fault = str(damage)
    if fault and holds_run(folder) and not restarts(cfg):
        raise RunError(fault)
    return now, fault is None


def as_begun(folder: Path, cfg: DictConfig) -> list[str]:
    """Give ``cfg`` the old meaning of the keys that are newer than the run in ``folder``; returns these keys."""
    if not holds_run(folder) or restarts(cfg):
        return []
    newer: list[str] = []
    with suppress(RunError):  # the comparison says it
        newer = [key for key in ADDED if key not in flat(stored_config(folder))]
    for key in newer:
        if (value := OmegaConf.select(cfg, key)) is not None and not as_before(key, value):
            log.warning("%s was begun before %s existed: it goes on as begun, with %s", folder, key, ADDED[key])
            OmegaConf.update(cfg, key, ADDED[key])
    return newer


def stored_config(run_dir: str | Path) -> dict[str, Any]:
    """The config that a run directory keeps; raises RunError, with the way out, where it is damaged or missing."""
    path = Path(run_dir) / CONFIG
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError) as fault:
        config = fault
    if not isinstance(config, dict) or not isinstance(config.get("paths", {}), dict) or not config:
        raise RunError(f"{path} is damaged or missing: of which config its run is cannot be told. {_WAYS_OUT}")
    return config


def adapter_sha256(folder: str) -> str | None:
    """Hash of an adapter's weights; None where they are not on this disk."""
    return next((file_sha256(path)[:16] for path in sorted(Path(folder).glob("adapter_model.*"))), None)
