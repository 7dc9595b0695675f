"""The study-wide ledger of earlier versions, read one last time."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chexreason.files import value_sha256, write_text
from chexreason.renames import MOVED
from chexreason.runs import ATTEMPTS, read_events
from chexreason.sweep.launch import only_sweep

_DEPTH = {"prepare": 0, "evaluate": 3, "scores": 3}  # folders between the study and a run, by kind; 2 for a training
log = logging.getLogger(__name__)


def convert_ledger(study: Path) -> None:
    """Write the events of an old ``ledger.jsonl`` to the attempts of its runs; the file is then renamed.

    A kill in between leaves the ledger, and a second conversion adds nothing twice. A run keeps the digest it had, and
    one whose directory was removed has no history. Raises RunError where a sweep has the study.
    """
    path = study / "ledger.jsonl"
    if not path.is_file():
        return
    with only_sweep(study):
        runs: dict[Path, list[dict[str, object]]] = {}
        for event in read_events(path):
            depth = _DEPTH.get(event.get("kind", ""), 2)
            parts = Path(event.get("run_dir", "")).parts
            runs.setdefault(study.joinpath(*parts[len(parts) - depth :]), []).append(event)
        for folder, events in runs.items():
            if folder.is_dir():
                known = {json.dumps(event): event for event in (*events, *read_events(folder / ATTEMPTS))}
                lines = sorted(known, key=lambda line: float(str(known[line]["time"])))
                write_text(folder / ATTEMPTS, "".join(line + "\n" for line in lines))
        with path.with_name("ledger.jsonl.converted").open("ab") as converted:  # a study may be converted twice
            converted.write(path.read_bytes())
        path.unlink()
    log.info("%s: its runs now keep their own attempts.jsonl; renamed to ledger.jsonl.converted", path)


def digest_then(verb: str, settings: Mapping[str, Any], needs: Sequence[str]) -> str:
    """The digest of a cell in an old ledger: of its settings under their old names, and of the cells it needs."""
    names = {now: then for then, now in MOVED.items() if not then.startswith("chexreason.traces.")}
    before = {key: names.get(value, value) if isinstance(value, str) else value for key, value in settings.items()}
    return value_sha256([verb, before, *needs])[:16]
