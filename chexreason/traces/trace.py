"""Traces on disk: JSON lines, one trace a row, as the trace export writes them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from chexreason.files import write_text
from chexreason.labels.schema import LabelSet

_SHOWN = 3  # examples of each kind of fault
NO_LABEL = "(no positive label)"


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer to learn from, with the study it is about; ``labels`` are the study's true ones.

    ``prompt`` is the name of the instruction format, ``image_path`` is read from the working directory where relative.
    """

    study_id: str
    patient_id: str
    dataset: str
    image_path: str
    labels: tuple[str, ...]
    prompt: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """What identifies a trace in its file: study and prompt."""
        return self.study_id, self.prompt

    @property
    def strata(self) -> tuple[str, ...]:
        """The labels that the trace counts for; one without any counts for ``NO_LABEL``."""
        return self.labels or (NO_LABEL,)

    @property
    def text_sha256(self) -> str:
        """The start (16 hex digits) of the hash of the text: a decision is about these words and no others."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


_FIELDS = tuple(f.name for f in fields(Trace))


def read_traces(path: Path) -> list[Trace]:
    """All traces of ``path``, in file order.

    Raises FileNotFoundError, and ValueError that lists every kind of fault with its count and first lines: no JSON
    object, missing fields, fields of the wrong type, text that is no Unicode, a study and prompt twice. Other fields
    are not read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no traces at {path}: export them with `python -m chexreason.cli.traces` first")
    faults: dict[str, list[str]] = {}
    found: dict[tuple[str, str], Trace] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                trace = _trace(line)
            except ValueError as fault:
                faults.setdefault(str(fault), []).append(f"line {number}")
                continue
            if trace.key in found:
                faults.setdefault("study and prompt twice", []).append(f"line {number} ({' / '.join(trace.key)})")
            found[trace.key] = trace
    if faults:
        listed = "\n".join(f"  {kind}: {len(rows)}, e.g. {', '.join(rows[:_SHOWN])}" for kind, rows in faults.items())
        raise ValueError(f"{path} is not a file of traces:\n{listed}\nExport the traces again")
    if not found:
        raise ValueError(f"{path} holds no traces; export them again")
    return list(found.values())


def write_traces(path: Path, traces: Iterable[Trace]) -> None:
    """Writes one JSON object a line, complete or not at all."""
    write_text(path, "".join(json.dumps(asdict(trace), ensure_ascii=False) + "\n" for trace in traces))


def check_labels(traces: Sequence[Trace], label_set: LabelSet) -> None:
    """Refuses (ValueError) traces whose labels are not in ``label_set``."""
    counts = Counter(label for trace in traces for label in trace.labels if label not in label_set.labels)
    if counts:
        listed = ", ".join(f"'{label}' ({n})" for label, n in counts.items())
        raise ValueError(
            f"traces name labels that '{label_set.name}' does not have: {listed}; choose the label set they were made "
            f"with (labels=), or mend them"
        )


def is_unicode(text: str) -> bool:
    """False for text with half a surrogate pair, which JSON can carry and no file or database can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _trace(line: bytes) -> Trace:
    """One row; a ValueError's text is the kind of fault, the same for all rows that have it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if missing := [name for name in _FIELDS if name not in row]:
        raise ValueError(f"missing {', '.join(missing)}")
    row = {name: row[name] for name in _FIELDS}
    labels = row.pop("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("'labels' is not a list of names")
    if wrong := [name for name, value in row.items() if not isinstance(value, str)]:
        raise ValueError(f"{', '.join(wrong)} not text")
    if empty := [name for name in ("study_id", "patient_id", "prompt", "text") if not row[name].strip()]:
        raise ValueError(f"{', '.join(empty)} empty")
    if not all(is_unicode(text) for text in (*row.values(), *labels)):
        raise ValueError("half a Unicode character (a lone surrogate)")
    return Trace(**row, labels=tuple(labels))
