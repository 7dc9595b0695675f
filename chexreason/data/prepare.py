"""Preparation of one data set: a source's rows, validated, every image decoded once, one manifest at the end."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pandas as pd

from chexreason.data import manifest as manifests
from chexreason.data.check import BadImage, check_images
from chexreason.data.manifest import Manifest, ManifestError
from chexreason.progress import Track, silent

log = logging.getLogger(__name__)
MANIFEST_NAME = "manifest.parquet"
QUARANTINE_NAME = "quarantine.csv"
ON_ERROR = ("stop", "quarantine")


class Source(Protocol):
    """Where the studies of one data set come from.

    ``provenance`` is JSON-ready and tells two preparations apart (parameters, hashes of csv files). ``image_root`` is
    None where the images lie under the prepared folder. ``prepare`` returns the rows of a manifest; a renderer writes
    its images under ``folder``, a vendor source touches no image.
    """

    @property
    def name(self) -> str: ...
    @property
    def provenance(self) -> Mapping[str, object]: ...
    @property
    def image_root(self) -> Path | None: ...
    def prepare(self, folder: Path, progress: Track) -> pd.DataFrame: ...


def prepare(
    source: Source, folder: Path, on_error: str = "stop", workers: int = 2, progress: Track = silent
) -> Manifest:
    """Writes ``folder/manifest.parquet`` and returns it; returns the one already there when it is up to date.

    An unreadable image stops the preparation with a list of all of them (``on_error="stop"``), or its row moves to
    ``folder/quarantine.csv`` (``"quarantine"``). An interrupted run leaves no manifest. Raises ManifestError on bad
    rows or images and OSError on a full disk.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error='{on_error}'; choose one of: {', '.join(ON_ERROR)}")
    request = _request(source, on_error)
    path = folder / MANIFEST_NAME
    existing = _up_to_date(path, request)
    if existing is not None:
        return existing
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (path, folder / QUARANTINE_NAME):
            stale.unlink(missing_ok=True)
        built = _build(source, folder, on_error, workers, progress)
        manifests.write(Manifest(built.frame, {**built.provenance, "request_sha256": request}, built.root), path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder).free / 1e6 if folder.exists() else 0.0
        message = (
            f"disk full while preparing '{source.name}' in {folder} ({free:.0f} MB free); free space and run again"
        )
        raise OSError(error.errno, message) from error
    return manifests.read(path)


def _build(source: Source, folder: Path, on_error: str, workers: int, progress: Track) -> Manifest:
    root = source.image_root or folder
    frame = manifests.conform(source.prepare(folder, progress))
    bad = check_images([root / path for path in frame["path"]], workers, progress)
    if bad and on_error == "stop":
        listed = "\n".join(f"  {image.path}: {image.reason}" for image in bad)
        raise ManifestError(
            f"{len(bad)} of {len(frame)} images of '{source.name}' cannot be read; repair them, or leave them out with "
            f"on_error=quarantine:\n{listed}"
        )
    if bad:
        _write_quarantine(folder / QUARANTINE_NAME, bad)
        log.warning("%s: %d of %d images moved to %s", source.name, len(bad), len(frame), folder / QUARANTINE_NAME)
    frame = frame.drop(index=[image.index for image in bad])
    if frame.empty:
        raise ManifestError(f"'{source.name}' has no readable image under {root}")
    provenance = {**source.provenance, "studies": len(frame), "quarantined": len(bad)}
    return Manifest(frame, provenance, root)


def _up_to_date(path: Path, request: str) -> Manifest | None:
    if not path.exists():
        return None
    try:
        existing = manifests.read(path)
    except ManifestError as error:
        log.warning("preparing anew: %s", error)
        return None
    return existing if existing.provenance.get("request_sha256") == request else None


def _request(source: Source, on_error: str) -> str:
    """SHA-256 of everything the manifest depends on: another request means another manifest."""
    asked = {
        "schema": manifests.SCHEMA_VERSION,
        "source": dict(source.provenance),
        "image_root": str(source.image_root),
        "on_error": on_error,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _write_quarantine(path: Path, bad: list[BadImage]) -> None:
    table = pd.DataFrame({"path": [str(image.path) for image in bad], "reason": [image.reason for image in bad]})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        table.to_csv(partial, index=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
