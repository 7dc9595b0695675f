"""Locks and temporaries with real processes: killed ones, forked ones, file systems without locks, any umask."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError

from chexreason import files, runs
from chexreason.data.cache import ImageCache
from chexreason.data.manifest import Manifest, write_manifest
from chexreason.data.prepare import prepare_set
from chexreason.files import TEMPORARY, temporary_of
from chexreason.owners import locked, remove_leftovers
from chexreason.phantom.source import PhantomSource
from chexreason.preflight.memory import peak_on
from chexreason.review.journal import ReviewStore
from chexreason.traces.store import open_store
from chexreason.training.callbacks import checkpoint
from chexreason.training.callbacks.checkpoint import write_checkpoint
from tests.support.manifests import manifest_rows

HOLD = """
import errno, fcntl, os, sys, time
from pathlib import Path
from chexreason.owners import locked
def failing(*_):
    raise OSError(getattr(errno, sys.argv[2]), "flock does not work here")
if sys.argv[2] != "works":
    fcntl.flock = failing
try:
    with locked(Path(sys.argv[1]), RuntimeError("in use")):
        if sys.argv[3] == "fork" and os.fork() == 0:
            os.write(1, f"{os.getpid()}\\n".encode())
            time.sleep(60)
        if sys.argv[3] == "take":
            sys.exit(0)
        os.write(1, b"held\\n")
        time.sleep(60)
except RuntimeError as refusal:
    sys.exit(str(refusal))
"""
FAILURES = ("ENOLCK", "ENOSYS", "EIO")


def hold(lock: Path, flock: str, then: str = "hold") -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(lock), flock, then]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def taken(lock: Path, flock: str) -> str:
    """Why another process cannot take the lock; empty where it can."""
    process = hold(lock, flock, "take")
    said = process.communicate()[1]
    return said.strip().splitlines()[-1] if process.returncode else ""


@pytest.mark.parametrize("failure", FAILURES)
def test_without_locks_of_the_system_a_file_stands_for_one(tmp_path, failure):
    lock = tmp_path / "LOCK"
    holder = hold(lock, failure)
    assert holder.stdout.readline() == "held\n"
    refused = taken(lock, failure)
    assert f"host {socket.gethostname()}, pid {holder.pid}, SLURM job" in refused
    assert f"in {lock}.owner; once that has ended, delete this file" in refused
    assert taken(lock, "works") == refused  # another node, where the same file system locks
    holder.kill()
    said = holder.communicate()[1]
    assert said.count("LOCK.owner stands for the lock") == 1
    assert taken(lock, failure) == ""
    assert not Path(f"{lock}.owner").exists()  # given back


@pytest.mark.parametrize("failure", ["EWOULDBLOCK", "EAGAIN"])
def test_only_a_lock_that_is_held_is_in_use(tmp_path, failure):
    assert taken(tmp_path / "LOCK", failure) == "in use"


def test_the_owner_on_another_host_is_refused_until_its_file_is_deleted(tmp_path):
    owner = tmp_path / "LOCK.owner"
    for text in (json.dumps({"host": "node17", "pid": 1, "start": 5, "job_id": "4711"}), ""):
        owner.write_text(text)
        refused = taken(tmp_path / "LOCK", "ENOLCK")
        assert ("host node17, pid 1, SLURM job 4711" in refused) == bool(text)
        assert f"in {owner}; once that has ended, delete this file" in refused
        owner.unlink()  # the way out
        assert taken(tmp_path / "LOCK", "ENOLCK") == ""


def test_a_number_that_another_process_has_now_is_a_dead_owner(tmp_path):
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "start": 1, "job_id": None}
    (tmp_path / "LOCK.owner").write_text(json.dumps(owner))
    assert taken(tmp_path / "LOCK", "ENOLCK") == ""


@pytest.mark.parametrize("flock", ["works", "ENOLCK"])
def test_a_child_that_outlives_its_killed_parent_holds_no_lock(tmp_path, flock):
    holder = hold(tmp_path / "LOCK", flock, "fork")
    said = {holder.stdout.readline().strip(), holder.stdout.readline().strip()}
    child = int((said - {"held"}).pop())
    try:
        assert "in use" in taken(tmp_path / "LOCK", flock)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        assert taken(tmp_path / "LOCK", flock) == ""
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_whose_folder_was_set_aside_is_not_held(tmp_path):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / "LOCK", RuntimeError("in use")):
        os.rename(tmp_path / "run", tmp_path / "run.old-1")
        (tmp_path / "run").mkdir()
        with locked(tmp_path / "run" / "LOCK", RuntimeError("in use")):
            assert taken(tmp_path / "run" / "LOCK", "works") == "in use"


KILLED = """
import os, signal, sys
from pathlib import Path
from chexreason import files
folder, at = Path(sys.argv[1]), int(sys.argv[2])
replace, calls = os.replace, []
def dying(*paths):
    calls.append(1)
    if len(calls) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
os.replace = dying
"""
WRITERS = {
    "a file": (1, 'files.write_text(folder / "DONE", "new")'),
    "a cache": (1, 'files.write_checked(folder / "ab" / "abc", b"new", folder)'),
    "a folder, written": (1, "adapter()"),
    "a folder, between its names": (2, "adapter()"),
}
ADAPTER = """
def adapter():
    with files.whole_folder(folder / "best") as staging:
        (staging / "weights").write_text("new")
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_kill_leaves_is_gone_after_the_next_start_and_the_old_is_there(tmp_path, writer):
    at, call = WRITERS[writer]
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights").write_text("old")
    (tmp_path / "DONE").write_text("old")
    script = textwrap.dedent(KILLED + ADAPTER) + call
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(at)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(f"{TEMPORARY}*"))
    remove_leftovers(tmp_path)
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))
    assert {(tmp_path / "best" / "weights").read_text(), (tmp_path / "DONE").read_text()} == {"old"}


def starts(folder: Path) -> list[Callable[[], object]]:
    """The next start of each command that writes into a folder of its own."""
    cfg = OmegaConf.create({"seed": 0})
    source = PhantomSource("phantom_a", "a", n={"sft": 1}, size=48)
    return [
        lambda: runs.open_run(folder, cfg).__enter__(),
        lambda: ImageCache(folder.parent, lambda image: image, folder.name),
        lambda: open_store(folder / "traces.sqlite").__enter__(),
        lambda: ReviewStore(folder / "review.sqlite"),
        lambda: prepare_set(source, folder, workers=1),
    ]


@pytest.mark.parametrize("which", range(5), ids=["run", "cache", "traces", "review", "prepare"])
def test_every_start_removes_what_a_kill_left_in_its_folder(tmp_path, which):
    left = tmp_path / "folder" / f"{TEMPORARY}{socket.gethostname()}~{os.getpid()}~1~00~a.csv"
    left.parent.mkdir()
    left.touch()
    starts(tmp_path / "folder")[which]()
    assert not left.exists()


def test_the_temporaries_of_the_living_and_of_other_hosts_stay(tmp_path):
    mine, elsewhere = temporary_of(tmp_path / "a.csv"), tmp_path / f"{TEMPORARY}node17~1~5~00~a.csv"
    for path in (mine, elsewhere):
        path.touch()
    remove_leftovers(tmp_path)
    assert mine.exists()
    assert elsewhere.exists()
    os.utime(elsewhere, (0, 0))
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name}


UMASKS = {0o077: (0o600, 0o700), 0o002: (0o664, 0o775), 0o022: (0o644, 0o755), 0o027: (0o640, 0o750)}


@pytest.fixture(params=UMASKS)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_is_published_has_the_mode_of_the_umask(tmp_path, umask):
    with files.whole(tmp_path / "a.txt") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT, 0o600))  # as a library writes it that makes a file of its own
    with files.whole_folder(tmp_path / "best") as staging:
        os.close(os.open(staging / "weights", os.O_CREAT, 0o600))
    with open_store(tmp_path / "traces.db"):
        pass
    paths = [tmp_path / name for name in ("a.txt", "best/weights", "traces.db", "best")]
    assert [path.stat().st_mode & 0o777 for path in paths] == [UMASKS[umask][0]] * 3 + [UMASKS[umask][1]]


@pytest.mark.parametrize("public", [True, False])
def test_a_run_of_sets_that_are_not_declared_public_is_its_owners_alone(tmp_path, caplog, umask, public):
    sets = {name: {"public": True} for name in "ab"}
    cfg = OmegaConf.create({"data": {"folder": str(tmp_path), "sets": sets}, "restart": False})

    def mode_after(name: str, mode: int | None = None, restart: bool = False) -> int:
        (folder := tmp_path / name).mkdir(exist_ok=True)  # as Hydra makes it
        folder.chmod(mode or folder.stat().st_mode)
        with runs.open_run(folder, OmegaConf.merge(cfg, {"restart": restart})):
            assert (folder / runs.CONFIG).stat().st_mode & 0o777 == UMASKS[umask][0]
            runs.mark_done(folder, {})
        return folder.stat().st_mode & 0o7777

    assert mode_after("unprepared") == 0o700
    for name in cfg.data.sets:
        manifest = Manifest(manifest_rows(name), {"public": public or name == "a"}, tmp_path)
        write_manifest(manifest, tmp_path / name / "manifest.parquet")
    assert mode_after("run") == (UMASKS[umask][1] if public else 0o700)
    assert mode_after("run", 0o755) == 0o755  # opened since
    assert mode_after("shared", 0o2710) == 0o2710 == mode_after("shared", restart=True)  # somebody's own choice
    said = f"{tmp_path / 'shared'} has mode 2710: others may read what is not declared public there"
    assert caplog.messages.count(said) == (not public)


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(tmp_path, monkeypatch):
    said = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: said.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle)
    )
    monkeypatch.setattr(os, "replace", lambda source, target: said.append("named") or replace(source, target))
    files.write_text(tmp_path / "DONE", "x")
    with files.whole_folder(tmp_path / "best") as staging:
        (staging / "weights").write_text("x")
    names = [Path(path).name.rpartition("~")[2] for path in said]
    assert names == ["DONE", "named", tmp_path.name, "weights", "best", "named", tmp_path.name]


@pytest.mark.parametrize("key", ["value", "sha256"])
def test_a_sealed_object_is_believed_whole_or_not_at_all(tmp_path, key):
    path = tmp_path / "DONE"
    files.write_sealed(path, {"value": 1.5, "answers_sha256": "a" * 64})
    assert files.read_sealed(path, "mend it") == {"value": 1.5, "answers_sha256": "a" * 64}
    path.write_text(path.read_text().replace(f'"{key}"', f'"{key[:-1]}x"'))
    with pytest.raises(ValueError, match=f"{path} is damaged: mend it"):
        files.read_sealed(path, "mend it")
    path.write_text('{"answers_sha256": "' + "a" * 64 + '"}')  # of an earlier version
    assert files.read_sealed(path, "mend it") == {"answers_sha256": "a" * 64}


def test_damaged_lines_are_left_out_with_a_word(tmp_path, caplog):
    path = tmp_path / "rewards-rank0.csv"
    path.write_bytes(
        b'step,study_id,reward\r\n0,s1,0.5\r\n1,\0\0\0,0.5\r\n2,s2,0.x\r\n3,\xff,1\r\n4,s\r\n5,"s,1\r\n6,s3,1\r\n7,s4,0.2'
    )
    assert files.sound_lines(path, ("step", "reward")) == ["step,study_id,reward", "0,s1,0.5", "6,s3,1"]
    assert f"{path}: 6 damaged lines are left out" in caplog.text
    path.write_bytes(bytes(40))
    assert files.sound_lines(path) == []


def refused_weights() -> None:
    """What safetensors says; it would rename its file over the device."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FULL = Path("/dev/full")  # takes no byte
REFUSED: dict[str, Callable[[], object]] = {
    "a checkpoint": lambda: write_checkpoint({"a": torch.zeros(1_000_000)}, Path("last.ckpt")),
    "weights": refused_weights,
    "a line": lambda: FULL.write_text("line"),
}


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("writer", REFUSED)
def test_a_full_disk_is_said_with_the_file_and_a_way_out(tmp_path, monkeypatch, writer):
    monkeypatch.setattr(checkpoint, "whole", lambda path: nullcontext(FULL))
    with (
        pytest.raises(OSError, match=rf"make room there; the same command .*: '{tmp_path}/x'") as fault,
        files.written(tmp_path / "x"),
    ):
        REFUSED[writer]()
    assert fault.value.errno == errno.ENOSPC


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match=r"^another$"), files.whole(tmp_path / "x"):
        raise RuntimeError("another")
    with pytest.raises(PermissionError, match=r"^refused$"), files.whole_folder(tmp_path / "x"):
        raise PermissionError("refused")


@pytest.mark.parametrize(("platform", "size"), [("linux", 7168), ("darwin", 7)])
def test_the_peak_is_bytes_where_the_system_counts_in_another_unit(monkeypatch, platform, size):
    monkeypatch.setattr("chexreason.owners.Path", lambda _: Path("/no/proc/self/status"))  # as in some containers
    monkeypatch.setattr("resource.getrusage", lambda who: type("", (), {"ru_maxrss": 7}))
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_on(torch.device("cpu"), lambda: None, "") == size


@pytest.mark.parametrize("missing", ["fcntl", "resource"])
def test_a_system_without_the_modules_of_unix_is_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # as on Windows
    with pytest.raises(ImportError, match=r"needs Linux or macOS .* run it in WSL2"):
        importlib.reload(sys.modules["chexreason"])
