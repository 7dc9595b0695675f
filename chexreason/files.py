"""Files that outlive a kill: atomic writes, of which a reader never sees a part, and reading what was damaged."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import socket
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
TEMPORARY = ".tmp~"  # begins the name of a temporary file or folder; host, pid and start of its owner follow
PUT_BACK = "old"  # in the name of a folder that is being replaced
_SEAL = "sha256"  # in a sealed JSON file: the hash of all else in it
MASK = "<masked>"  # in place of a password or key
# How a setting, a header or a variable of the environment is called whose value is one.
_NAME = r"(?i:(?<![\w.-])[\w.-]*(?:(?:api|access|secret|private|subscription)[_-]?key|secret|passw(?:or)?d|credentials?"
_NAME += r"|(?:access|api|auth|hf|hub|refresh|session|tracking)[_-]?token|authorization))"
_SCHEME = r"(?i:bearer|basic|token)\s+"
_UNSAID = rf"""(?!["']?(?:{_SCHEME})?(?:\$\{{|null\b|none\b))"""  # to be read elsewhere, or none
_VALUE = rf"""{_UNSAID}(?:{_SCHEME})?(?:"(?:[^"\\]|\\.)+"|'[^']+'|[^\s&#,;{{}}\])]+)"""
# A login in an address, a key behind its name, one behind its scheme, one that is known by its form.
_SECRETS = re.compile(
    r"(?<=://)(?:(?!\$\{)[^/?#\s])*(?=@)"
    rf"""|({_NAME}["']?\s*[=:]\s*|(?<![\w-])token=|[?&](?:key|sig|code)=){_VALUE}"""
    r"|\b(?i:bearer|basic)\s+[\w.~+/=-]{8,}|\b(?:sk|hf|ghp|xox[bp])[-_][\w-]{12,}|\bAIza[\w-]{20,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]+\.[\w-]*"
)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """In the block, an error of a full disk names ``path`` and the way out.

    Some writers hide it: torch raises a RuntimeError in its place, safetensors quotes it.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error if isinstance(error, OSError) else error.__context__, "errno", None)
        for full in (errno.ENOSPC, errno.EDQUOT):
            if number == full or f"os error {full})" in str(error):
                what = f"{os.strerror(full)}: make room there; the same command then continues"
                raise OSError(full, what, str(path)) from None
        raise


@contextmanager
def whole(path: Path, scratch: Path | None = None, *, flush: bool = True) -> Iterator[Path]:
    """A temporary file of the same suffix that takes the place of ``path`` when the block ends without an error.

    It lies in ``scratch`` (the folder of ``path`` unless given) and has the mode that the umask gives. The folder is
    made where it is missing. With ``flush`` the file is on the disk before this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path, scratch)
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode & 0o777
    try:
        with written(path):
            yield temporary
            with suppress(OSError):  # a file system without modes
                temporary.chmod(mode)  # a writer may have put a file of its own there
            if flush:
                _flush(temporary)
        os.replace(temporary, path)
        if flush:
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, for files alone, that takes the place of ``folder`` when the block ends without an error.

    A kill between the two renames leaves the old folder aside; ``remove_leftovers`` puts it back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging, old = temporary_of(folder), temporary_of(folder, tag=PUT_BACK)
    staging.mkdir()
    try:
        with written(folder):
            yield staging
            mode = staging.stat().st_mode & 0o666  # as the umask gives it; safetensors writes 0600
            for path in staging.iterdir():
                with suppress(OSError):
                    path.chmod(mode)
                _flush(path)
            _flush(staging)
        if folder.exists():
            os.replace(folder, old)
        os.replace(staging, folder)
        _flush(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for left in (staging, old):
            shutil.rmtree(left, ignore_errors=True)


def temporary_of(path: Path, scratch: Path | None = None, tag: str | None = None) -> Path:
    """A free name for what will become ``path``, in ``scratch`` or beside it: it ends alike and names its owner."""
    owner = f"{socket.gethostname()}~{os.getpid()}~{start_of(os.getpid())}"
    return (scratch or path.parent) / f"{TEMPORARY}{owner}~{tag or secrets.token_hex(4)}~{path.name}"


def start_of(pid: int) -> int | None:
    """When a process of this host started, in ticks since the boot; 0 where only its life is known, None: it is dead.

    The number of a dead process is given to another one some day; the start tells them apart.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except OSError:  # it is dead, or not shown
        try:
            os.kill(pid, 0)
        except OSError as error:
            return 0 if error.errno == errno.EPERM else None
        return 0


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems flush no folders: they order names themselves
            raise
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data``."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_checked(path: Path, data: bytes, scratch: Path) -> None:
    """Write ``data``, closed by its CRC-32 (4 bytes), which stands for a flush; its temporary lies in ``scratch``."""
    with whole(path, scratch, flush=False) as temporary:
        temporary.write_bytes(data + zlib.crc32(data).to_bytes(4, "big"))


def read_checked(path: Path) -> bytes | None:
    """The data that ``write_checked`` wrote; None where the file is missing, unreadable, empty or damaged."""
    try:
        entry = path.read_bytes()
    except OSError:
        return None
    data = entry[:-4]
    sound = entry[-4:] == zlib.crc32(data).to_bytes(4, "big")
    return data if data and sound else None  # four zeros are the checksum of nothing


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write strict JSON; raises ValueError on NaN or infinity, which no strict reader takes."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def finite(node: Any) -> Any:
    """A copy in which every NaN and infinity is None: strict JSON has neither."""
    if isinstance(node, Mapping):
        return {str(key): finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a strict JSON object that holds the hash of its own values."""
    write_json(path, {**value, _SEAL: value_sha256(dict(value))})


def read_sealed(path: Path, way_out: str, *, needed: bool = False) -> dict[str, Any]:
    """The JSON object of ``path`` without its seal; an earlier version's has none, and is believed unless ``needed``.

    Raises ValueError, naming the file and ``way_out``, where it is missing or is not what was written.
    """
    try:
        value = json.loads(path.read_bytes())
        others = {name: {k: v for k, v in value.items() if k != name} for name in value if len(str(value[name])) == 64}
        sealed = [name for name, rest in others.items() if value[name] == value_sha256(rest)]
        sound = sealed == [_SEAL] or not (needed or sealed or _SEAL in value)  # its own name may be what is damaged
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {way_out}") from None
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
        sound = False
    if not sound or not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: {way_out}")
    return {name: item for name, item in value.items() if name != _SEAL}


def value_sha256(value: object) -> str:
    """The SHA-256 of a value written as JSON, 64 hex digits; what JSON does not know stands there as text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sound_lines(path: Path, numbers: Collection[str] | None = ()) -> list[str]:
    """The lines of a CSV file without its damaged rows, the header first; none where that is damaged.

    A row is damaged where a kill cut it, where it holds what is no text, and where a column of ``numbers`` (None: every
    column) holds something else. What is left out is said. No cell may hold a line break.
    """
    *lines, torn = path.read_bytes().decode(errors="replace").split("\n")
    header = _cells(lines[0]) if lines else []
    kept: list[str] = []
    for line in lines if header else []:
        cells = _cells(line)
        wrong = [c for name, c in zip(header, cells, strict=False) if kept and (numbers is None or name in numbers)]
        if len(cells) == len(header) and all(map(_is_number, filter(None, wrong))):
            kept.append(line.rstrip("\r"))
    if dropped := len(list(filter(None, [*lines, torn]))) - len(kept):
        log.warning("%s: %d damaged lines are left out", path, dropped)
    return kept


def _cells(line: str) -> list[str]:
    """The cells of a line of CSV; none where it is damaged."""
    try:
        return [] if "\0" in line or "\ufffd" in line else next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _is_number(cell: str) -> bool:
    try:
        return float(cell) is not None
    except ValueError:
        return False


def without_secrets(value: Any) -> Any:
    """A text, or the texts of a config, with the passwords and keys in them masked: also those of the environment."""
    if isinstance(value, dict):
        named = {k for k in value if isinstance(value[k], str | int) and re.fullmatch(f"{_NAME}|token", str(k))}
        return {k: MASK if k in named else without_secrets(value[k]) for k in value}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    if not isinstance(value, str):
        return value
    for name, known in os.environ.items():  # ${oc.env:NAME} may stand under any setting
        if len(known) >= 8 and known in value and re.fullmatch(rf"{_NAME}|(?i:(?:.*_)?(?:key|token))", name):
            value = value.replace(known, MASK)
    return _SECRETS.sub(rf"\1{MASK}", value)
