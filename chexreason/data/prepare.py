"""Preparation of one data set: its rows are validated and selected, its images are read, its manifest is written."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from chexreason.data import manifest as manifests
from chexreason.data.check import ImageFacts, inspect_images
from chexreason.data.leakage import EVALUATION, TRAIN
from chexreason.data.manifest import READERS, Manifest, ManifestError
from chexreason.data.prevalence import pool_marks, prevalence_png
from chexreason.data.selection import PaperSelection
from chexreason.data.sources.columns import first_of
from chexreason.files import value_sha256, write_bytes, write_json, write_text, written
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.uncertainty import LabelPolicy
from chexreason.owners import remove_leftovers
from chexreason.progress import Track, silent

log = logging.getLogger(__name__)
MANIFEST_NAME = "manifest.parquet"
QUARANTINE_NAME = "quarantine.csv"
SELECTION_NAME = "selection.json"
PREVALENCE_NAME = "prevalence.png"
POOL = "pool"  # in the provenance: the marks of the images that the training splits were drawn from
RECORD_NAME = "images.jsonl"  # what the image pass knows, kept between preparations
IDS_NAME = "ids"
ON_ERROR = ("stop", "quarantine")
_KINDS = 8  # kinds of fault in one message


class Source(Protocol):
    """Where the studies of one data set come from.

    ``provenance`` is JSON-ready (parameters, hashes of csv files): equal ones mean equal rows. ``image_root`` is
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


def prepare_set(
    source: Source,
    folder: Path,
    on_error: str = "stop",
    workers: int = 2,
    progress: Track = silent,
    *,
    select: PaperSelection | None = None,
    policy: LabelPolicy | None = None,
    check: bool = True,
    public: bool = False,
    public_names: str | None = None,
) -> Manifest:
    """Writes ``folder/manifest.parquet`` and returns it; returns the one already there when it is up to date.

    ``select`` chooses rows and splits before any image is read. An unreadable image stops the preparation with a list
    of what is wrong (``on_error="stop"``), or its row moves to ``quarantine.csv`` (``"quarantine"``); ``check=False``
    opens no image, and then there are no hashes to find copies by. ``policy``, and whether the set is declared
    ``public``, are recorded, not applied: the manifest holds raw marks. Its provenance holds the marks of the pool too
    (``pool_marks``): of the rows that ``select`` draws from, else of the training splits. The folder also gets
    ``ids/<split>.csv`` and, for a selection, ``selection.json`` and ``prevalence.png``. An interrupted run leaves no
    manifest, and the next one reads no image again that has not changed; a manifest of which an image has changed is
    not up to date. Raises ManifestError on bad rows or images and OSError on a full disk.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error='{on_error}'; choose one of: {', '.join(ON_ERROR)}")
    request = _request(source, select, on_error, check)
    declared = {"policy": asdict(policy) if policy else None, "public": public is True, "public_names": public_names}
    path = folder / MANIFEST_NAME
    existing = _up_to_date(path, request, workers, progress)
    if existing is not None:
        if any(existing.provenance.get(key) != value for key, value in declared.items()):  # it changes no row
            manifests.write_manifest(Manifest(existing.frame, {**existing.provenance, **declared}, existing.root), path)
            return manifests.read_manifest(path)
        return existing
    with written(folder):
        remove_leftovers(folder, folder / IDS_NAME, folder / "images")
        _clear(folder)
        frame, report, pool = _rows(source, folder, select, progress)
        root = source.image_root or folder
        told = (folder, source.name, on_error, workers, progress)
        built, transparent = _looked_at(frame, root, *told) if check else (frame, 0)
        _write_beside(folder, built, report)
        counts = {"studies": len(built), "quarantined": len(frame) - len(built), "images_checked": check}
        chosen = {"selection": select.provenance if select else None}
        recorded = {**counts, "transparent": transparent, POOL: pool_marks(pool), "request_sha256": request}
        provenance = {**source.provenance, **chosen, **declared, **recorded}
        manifests.write_manifest(Manifest(built, provenance, root), path)
    return manifests.read_manifest(path)


def _rows(
    source: Source, folder: Path, select: PaperSelection | None, progress: Track
) -> tuple[pd.DataFrame, Mapping[str, object] | None, pd.DataFrame]:
    """The conformed rows of the set, the selection's report and the pool's rows; a vendor source writes nothing."""
    if source.image_root is None:
        folder.mkdir(parents=True, exist_ok=True)  # a renderer's images go there
    frame = manifests.conform(source.prepare(folder, progress))
    if select is None:
        if frame.empty:
            raise ManifestError(f"'{source.name}' has no rows; look at its csv and its filters")
        if idle := sorted(set(frame["split"]) - {*TRAIN, *EVALUATION, READERS}):
            how = "nothing trains or is scored on it; draw sft, rl, val and test with select"
            log.warning("%s: split %s: %s", source.name, ", ".join(idle), how)
        return frame, None, frame[frame["split"].isin(TRAIN)]
    selected = select.apply(frame, source.name)
    for warning in selected.report.get("warnings", ()):
        log.warning("%s: %s", source.name, warning)
    return manifests.conform(selected.frame), selected.report, selected.pool


def _looked_at(
    frame: pd.DataFrame, root: Path, folder: Path, name: str, on_error: str, workers: int, progress: Track
) -> tuple[pd.DataFrame, int]:
    """``frame`` with the hashes of its images, without the rows whose image cannot be read; how many are transparent.

    Blank and transparent films are named in the log: the audit page counts them.
    """
    facts = inspect_images([root / path for path in frame["path"]], folder / RECORD_NAME, workers, progress)
    bad = [fact for fact in facts if fact.reason]
    if bad and on_error == "stop":
        raise ManifestError(
            f"{len(bad)} of {len(frame)} images of '{name}' cannot be read; repair them, or leave them out with "
            f"on_error=quarantine:\n{_faults(bad)}"
        )
    if len(bad) == len(frame):
        raise ManifestError(f"'{name}' has no readable image under {root}:\n{_faults(bad)}")
    if bad:
        table = pd.DataFrame({"path": [str(fact.path) for fact in bad], "reason": [fact.reason for fact in bad]})
        write_text(folder / QUARANTINE_NAME, table.to_csv(index=False))
        told = (name, len(bad), len(frame), folder / QUARANTINE_NAME, _faults(bad))
        log.warning("%s: %d of %d images moved to %s:\n%s", *told)
    blank = [fact.path for fact in facts if not fact.reason and not fact.phash]
    clear = [fact.path for fact in facts if fact.transparent]
    for what, paths in (("blank", blank), ("transparent, which is left out", clear)):
        if paths:
            log.warning("%s: %d of %d films are %s: %s", name, len(paths), len(frame), what, first_of(map(str, paths)))
    hashed = frame.assign(sha256=[fact.sha256 for fact in facts], phash=[fact.phash for fact in facts])
    return hashed[[not fact.reason for fact in facts]].reset_index(drop=True), len(clear)


def _faults(bad: Sequence[ImageFacts]) -> str:
    """One line a reason, the commonest first, with its count and first files."""
    files: dict[str, list[Path]] = defaultdict(list)
    for fact in bad:
        files[fact.reason].append(fact.path)
    commonest = sorted(files.items(), key=lambda item: -len(item[1]))
    lines = [f"  {len(paths)} x {reason}: {first_of(map(str, paths))}" for reason, paths in commonest[:_KINDS]]
    rest = sum(len(paths) for _, paths in commonest[_KINDS:])
    return "\n".join([*lines, *([f"  and {rest} for other reasons"] if rest else [])])


def _write_beside(folder: Path, frame: pd.DataFrame, report: Mapping[str, object] | None) -> None:
    """Writes the ids of every split and, after a selection, its report as figures and as a picture."""
    names = np.array(CHEXPERT14.labels)
    positive = frame[list(CHEXPERT14.labels)].to_numpy(dtype=np.float64) == 1.0  # [N, 14]
    ids = frame[["study_id", "patient_id", "path"]].assign(labels=["|".join(names[row]) for row in positive])
    for split, rows in ids.groupby(frame["split"], sort=False):
        write_text(folder / IDS_NAME / f"{split}.csv", rows.to_csv(index=False))
    if report is not None:
        write_json(folder / SELECTION_NAME, report)
        write_bytes(folder / PREVALENCE_NAME, prevalence_png(report))


def _clear(folder: Path) -> None:
    """Removes the files of an earlier preparation, so that none remains if this one stops before its manifest."""
    beside = (MANIFEST_NAME, QUARANTINE_NAME, SELECTION_NAME, PREVALENCE_NAME)
    for stale in (*(folder / name for name in beside), *(folder / IDS_NAME).glob("*.csv")):
        stale.unlink(missing_ok=True)


def _up_to_date(path: Path, request: str, workers: int, progress: Track) -> Manifest | None:
    if not path.exists():
        return None
    try:
        existing = manifests.read_manifest(path)
    except ManifestError as error:
        log.warning("preparing anew: %s", error)
        return None
    if existing.provenance.get("request_sha256") != request or POOL not in existing.provenance:
        return None  # an earlier version counted no pool
    if "sha256" in existing.frame and (changed := _changed(existing, path.parent, workers, progress)):
        log.warning("preparing anew: %d images have changed since: %s", len(changed), first_of(changed))
        return None
    return existing


def _changed(existing: Manifest, folder: Path, workers: int, progress: Track) -> list[str]:
    """The images that are not what ``existing`` says, and those set aside that can be read now."""
    frame, aside = existing.frame, folder / QUARANTINE_NAME
    paths = [existing.root / path for path in frame["path"]]
    paths += [Path(path) for path in pd.read_csv(aside)["path"]] if aside.is_file() else []
    recorded = [*zip(frame["sha256"], frame["phash"], strict=True), *[("", "")] * (len(paths) - len(frame))]
    facts = inspect_images(paths, folder / RECORD_NAME, workers, progress)
    return [str(f.path) for f, own in zip(facts, recorded, strict=True) if (f.sha256, f.phash) != own]


def _request(source: Source, select: PaperSelection | None, on_error: str, check: bool) -> str:
    """SHA-256 of everything the manifest depends on: another request means another manifest."""
    asked = {
        "schema": manifests.SCHEMA_VERSION,
        "source": dict(source.provenance),
        "selection": select.provenance if select else None,
        "image_root": str(source.image_root),
        "on_error": on_error,
        "check": check,
    }
    return value_sha256(asked)
