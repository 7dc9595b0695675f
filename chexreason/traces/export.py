"""Writes accepted traces to files, the same bytes from the same database, and reads them as answers for SFT."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chexreason.files import whole, write_text
from chexreason.labels.schema import LabelSet
from chexreason.parsing import Grammar, format_answer
from chexreason.prompts import Prompt
from chexreason.traces.store import TraceStore
from chexreason.traces.trace import Trace, read_traces, write_traces
from chexreason.types import Study

log = logging.getLogger(__name__)
JSONL_NAME, PARQUET_NAME, ASIDE_NAME = "traces.jsonl", "traces.parquet", "set_aside.jsonl"
_ACCEPTED = (
    "SELECT s.study_id, s.patient_id, s.dataset, s.image_path, s.labels, r.text"
    " FROM study s JOIN request r ON r.study_id = s.study_id AND r.accepted = 1 ORDER BY s.position"
)
_REJECTED = (
    "SELECT s.study_id, s.labels, r.text, r.faults FROM study s JOIN request r ON r.study_id = s.study_id"
    " WHERE r.accepted = 0 AND NOT EXISTS"
    " (SELECT 1 FROM request a WHERE a.study_id = s.study_id AND a.accepted = 1) ORDER BY s.position, r.id"
)


def export(store: TraceStore, folder: Path) -> int:
    """Writes the accepted traces as JSON lines and Parquet, and every rejected answer of the other studies.

    Each file is complete or not there; rows are in the order of the studies. Returns the number of accepted traces.
    """
    prompt = str(store.rows("SELECT value FROM identity WHERE key = 'prompt'")[0][0])
    traces = [
        Trace(study_id, patient_id, dataset, image_path, tuple(json.loads(labels)), prompt, text)
        for study_id, patient_id, dataset, image_path, labels, text in store.rows(_ACCEPTED)
    ]
    write_traces(folder / JSONL_NAME, traces)
    text = pa.string()
    columns = [(field.name, pa.list_(text) if field.name == "labels" else text) for field in fields(Trace)]
    table = pa.Table.from_pylist([asdict(trace) for trace in traces], schema=pa.schema(columns))
    with whole(folder / PARQUET_NAME) as temporary:
        pq.write_table(table, temporary)
    rejected = [
        {"study_id": study_id, "labels": json.loads(labels), "text": text, "faults": json.loads(faults)}
        for study_id, labels, text, faults in store.rows(_REJECTED)
    ]
    write_text(folder / ASIDE_NAME, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected))
    return len(traces)


class TraceTeacher:
    """Answers with the traces of ``file``: .jsonl as ``export`` or a review writes it, or .parquet as ``export`` does.

    Traces written for one prompt serve that prompt and the one that asks for labels alone, whose answers are made from
    the same studies. Raises FileNotFoundError or ValueError where the file is missing or no file of traces.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        traces = _read_parquet(self.file) if self.file.suffix == ".parquet" else read_traces(self.file)
        self._traces = {trace.study_id: trace for trace in traces}
        if len(self._traces) < len(traces):
            raise ValueError(f"{self.file} has several traces of one study: keep those of one prompt")
        self._asked, self._missing = 0, 0

    def can_write(self, study: Study, label_set: LabelSet) -> bool:
        """False where the file has no trace of the study; how many those are is logged at the next ``write``."""
        known = study.study_id in self._traces
        self._asked += 1
        self._missing += not known
        return known

    def write(self, study: Study, prompt: Prompt, label_set: LabelSet) -> str:
        """The study's trace as it is in the file; raises ValueError where it was written for another prompt."""
        if self._missing:
            log.warning("%s has no trace of %d of %d studies: left out", self.file, self._missing, self._asked)
        self._asked = self._missing = 0
        trace = self._traces.get(study.study_id)
        if trace is None:
            raise ValueError(f"{self.file} has no trace of study '{study.study_id}'; ask can_write first")
        if prompt.grammar == Grammar.SOLUTION_ONLY:
            return format_answer("", [label for label in label_set if label in trace.labels], prompt.grammar)
        if trace.prompt != prompt.name:
            raise ValueError(f"{self.file} holds traces for prompt '{trace.prompt}', not '{prompt.name}': set prompt=")
        return trace.text


def _read_parquet(file: Path) -> list[Trace]:
    if not file.is_file():
        raise FileNotFoundError(f"no traces at {file}: export them with `python -m chexreason.cli.traces` first")
    try:
        rows = pq.read_table(file).to_pylist()
        return [Trace(**row | {"labels": tuple(row["labels"])}) for row in rows]
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a Parquet file of traces ({error}); export them again") from error
