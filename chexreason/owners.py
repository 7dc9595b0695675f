"""Which process a file belongs to: locks, and the temporaries that a killed process left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import resource
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from chexreason.files import PUT_BACK, TEMPORARY, start_of, temporary_of

log = logging.getLogger(__name__)
_DAY = 86_400.0
_LOCKS: set[int] = set()  # descriptors of the locks that this process holds


def remove_leftovers(*folders: Path, elsewhere: float = _DAY) -> None:
    """Remove the temporaries of dead processes from ``folders``; those of another host at an age of ``elsewhere`` s.

    A folder that a kill left between its two names gets its name back.
    """
    for path in [path for folder in folders for path in folder.glob(f"{TEMPORARY}*~*~*~*~*")]:
        host, pid, start, tag, name = path.name.removeprefix(TEMPORARY).split("~", 4)
        with suppress(OSError):  # another start removes it too, or it is another user's
            age = time.time() - path.stat().st_mtime
            if _lives(pid, start) if host == socket.gethostname() else age < elsewhere:
                continue
            if tag == PUT_BACK and not path.with_name(name).exists():
                os.replace(path, path.with_name(name))
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def wall_off(folder: Path) -> None:
    """Make ``folder`` for its owner alone (0700); a mode that somebody gave it on purpose stays, and is said."""
    folder.mkdir(parents=True, exist_ok=True)
    (plain := temporary_of(folder / "mode")).mkdir()  # as the umask gives it
    with suppress(OSError):  # a file system without modes
        if folder.stat().st_mode == plain.stat().st_mode:
            folder.chmod(folder.stat().st_mode & 0o7700)
    plain.rmdir()
    if (mode := folder.stat().st_mode & 0o7777) & 0o077:
        log.warning("%s has mode %o: others may read what is not declared public there", folder, mode)


def own_folder(folder: Path, private: bool) -> Path:
    """``folder``, made where it is missing: then, if ``private``, for its owner alone."""
    if not folder.exists():
        folder.mkdir(parents=True)
        if private:
            wall_off(folder)
    return folder


def peak_rss() -> int:
    """Bytes of this process's largest resident size.

    Linux's ``ru_maxrss`` begins at the size of the process that started this one, its VmHWM does not.
    """
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _lives(pid: object, start: object) -> bool:
    found = start_of(int(pid)) if str(pid).isdecimal() else None  # type: ignore[call-overload]
    return found is not None and str(found) in (str(start), "0")


@contextmanager
def locked(path: Path, refusal: Exception) -> Iterator[None]:
    """Hold a lock file until the block or the process ends; raises ``refusal`` where another process holds it.

    Forked children do not hold it. Where the file system has no locks, a file beside it stands for the lock and names
    its owner: one of this host that died loses it, one of another host is named with the way out.
    """
    instead, owned = path.with_name(f"{path.name}.owner"), False
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _LOCKS.add(lock)
    try:
        if reason := _no_locks(lock, refusal):
            _say_no_locks(path, reason, instead)
        _refuse_living(instead, refusal)
        if reason:
            _own(instead, refusal)
            owned = True
        if not path.exists() or not os.path.samestat(os.fstat(lock), path.stat()):
            raise refusal  # another start has set the folder aside in the meantime
        yield
    finally:
        if owned and _owner_in(instead) == _this_process():
            instead.unlink()
        if lock in _LOCKS:  # not in a forked child, where the number may be another file's
            _LOCKS.remove(lock)
            os.close(lock)


def _let_go() -> None:
    """In a forked child: close the locks, which it would keep when its parent is killed."""
    while _LOCKS:
        os.close(_LOCKS.pop())


os.register_at_fork(after_in_child=_let_go)


def _no_locks(lock: int, refusal: Exception) -> str | None:
    """Take the lock; returns why the file system has none where it has none."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise refusal from None
        return error.strerror or str(error)
    return None


@cache
def _say_no_locks(path: Path, reason: str, instead: Path) -> None:
    log.warning("%s cannot be locked (%s): the file %s stands for the lock", path, reason, instead.name)


def _own(path: Path, refusal: Exception) -> None:
    """Make the file that stands for a lock; raises ``refusal`` where another process was faster."""
    try:
        with path.open("x") as file:
            json.dump(_this_process(), file)
    except FileExistsError:
        raise refusal from None


def _refuse_living(path: Path, refusal: Exception) -> None:
    """Remove the file that stands for a dead owner's lock; raises ``refusal``, with the way out, where it may live."""
    owner = _owner_in(path)
    if owner is None:
        return
    if owner.get("host") != socket.gethostname() or _lives(owner.get("pid"), owner.get("start")):
        who = f"host {owner.get('host')}, pid {owner.get('pid')}, SLURM job {owner.get('job_id')}"
        raise type(refusal)(f"{refusal}. Its owner: {who}, in {path}; once that has ended, delete this file")
    stale = temporary_of(path)
    with suppress(FileNotFoundError):
        os.replace(path, stale)
    if _owner_in(stale) not in (owner, None):  # a third process was faster, and has the lock
        os.replace(stale, path)
        raise refusal
    stale.unlink(missing_ok=True)


def _owner_in(path: Path) -> dict[str, Any] | None:
    """Who made the file that stands for a lock: empty where it is damaged, None where there is none."""
    try:
        owner = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _this_process() -> dict[str, Any]:
    own = {"host": socket.gethostname(), "pid": os.getpid(), "start": start_of(os.getpid())}
    return {**own, "job_id": os.environ.get("SLURM_JOB_ID")}
