"""Predictions of another tool, from csv or JSON lines: answers as text, as labels or as probabilities of labels."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from chexreason.data.sources.csv_text import Unreadable, dialect, letters, read_lines, records
from chexreason.labels.schema import LabelSet, folded
from chexreason.parsing import AnswerFormat, format_answer
from chexreason.statistics.metrics import FloatArray
from chexreason.statistics.predictions import to_prediction
from chexreason.types import Completion, Parsed, Prediction, Study

_NAMES, _TOKENS = ("study_id", "image", "path"), ("n_tokens", "tokens")  # the first that a row has counts
_OWN = ("text", "labels", "probabilities")
_SHOWN = 3  # rows listed of each kind of fault
_Places = Mapping[str, Sequence[tuple[str, tuple[str, ...]]]]  # id and image's path in its set, by each possible name
_Rows = dict[str, tuple[int, Mapping[str, Any]]]  # by study: its line and fields


class Misfit(Exception):
    """A row that is no prediction: what is wrong, and the value."""


def read_adopted(
    path: Path,
    studies: Sequence[Study],
    relative: Mapping[str, str],
    answer_format: AnswerFormat,
    *,
    cut: float = 0.5,
    clip: float = 1e-6,
    drop_surplus: bool = False,
) -> tuple[list[Prediction], FloatArray | None]:
    """The prediction of each study from the rows of ``path``, and log-odds [N, L] where these give probabilities.

    A row names its study by ``study_id`` (with or without "set:") or by the image's path, as much of it as is unique;
    ``relative`` are these paths by study. Text is parsed as an answer. A label whose probability is ``cut`` or more is
    named, and its log-odds are those of the probability clipped to ``clip`` .. 1 - ``clip``; a table of zeros and ones
    alone is labels and has no log-odds.
    Raises ValueError listing every kind of fault with its count and first rows: studies that lack a row, rows of no
    study asked for (unless ``drop_surplus``), doubles, unknown labels, values that are no probability.
    """
    if not 0.0 < clip < 0.5 or not 0.0 < cut < 1.0:
        raise ValueError(f"cut={cut}, clip={clip}: a cut lies within 0..1, a clip within 0..0.5")
    label_set, faults = answer_format.label_set, defaultdict[str, list[str]](list)
    rows = _by_study(_rows(path, label_set), _places(studies, relative), drop_surplus, faults)
    kind = _kind([row for _, row in rows.values()], faults)
    completions, shares = {}, np.zeros((len(studies), len(label_set)))
    for i, study in enumerate(studies):
        line, row = rows.get(study.study_id, (0, {}))
        try:
            if line and kind == "probabilities":
                shares[i] = _shares(row[kind], label_set)
            if line and kind:
                completions[i] = _completion(study.study_id, kind, row, shares[i] >= cut, answer_format)
        except Misfit as fault:
            faults[fault.args[0]].append(f"{line} ({fault.args[1]})")
    if lost := [study.study_id for study in studies if study.study_id not in rows]:
        faults[f"of {len(studies):,} studies have no row"] = lost
    if faults:
        raise ValueError(f"{path} is not adopted; nothing was written\n  " + "\n  ".join(_listed(faults)))
    predictions = [to_prediction(study, completions[i], label_set) for i, study in enumerate(studies)]
    if kind != "probabilities" or bool(np.isin(shares, (0.0, 1.0)).all()):
        return predictions, None
    inside = shares.clip(clip, 1 - clip)
    return predictions, np.log(inside) - np.log1p(-inside)


def _by_study(
    rows: Iterable[tuple[int, Mapping[str, Any]]], places: _Places, drop_surplus: bool, faults: dict[str, list[str]]
) -> _Rows:
    """The row of each study that has one; what is wrong with others goes to ``faults``."""
    found: _Rows = {}
    for line, row in rows:
        name = next((str(row[key]) for key in _NAMES if row.get(key) not in (None, "")), "")
        matches = _matches(name, places)
        if not name:
            faults["with neither a study_id nor an image"].append(f"{line}")
        elif len(matches) > 1:
            faults["of two films or more"].append(f"{line} ({name!r}: {', '.join(sorted(matches)[:2])})")
        elif matches and matches[0] in found:
            faults[f"of a study that line {found[matches[0]][0]} predicts"].append(f"{line} ({name!r})")
        elif matches:
            found[matches[0]] = (line, row)
        elif not drop_surplus:
            faults["of no study that is asked for"].append(f"{line} ({name!r})")
    return found


def _rows(path: Path, label_set: LabelSet) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """First line and fields of each row; columns of a csv that are called as labels are gathered in probabilities."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: file= is a csv or JSON lines")
    try:
        lines = read_lines(path)
        if next((line for line in lines if line.strip()), "").lstrip().startswith("{"):
            yield from _json_rows(lines)
            return
        names = {letters(label): label for label in label_set}
        header: list[str] = []
        start = next((n for n, line in enumerate(lines) if line.strip()), 0)
        mark = dialect(lines[start : start + 1], [*_NAMES, *_OWN, *label_set])[1]
        for first, last, cells in records(lines, 0, mark):
            if not header:
                header = [cell.strip().casefold() for cell in cells]
                read = [names.get(letters(cell), cell) for cell in header]
                if twice := [key for key in (*_NAMES, *_TOKENS, *_OWN, *label_set) if read.count(key) > 1]:
                    raise Unreadable(
                        f"has more than one column {twice[0]!r}: leave one, so that it is clear which counts"
                    )
                continue
            if len(cells) != len(header):
                raise Unreadable(f"has {len(cells)} cells in line {first} to {last}, its header {len(header)}")
            row: dict[str, Any] = dict(zip(header, cells, strict=True))
            given = {names[letters(key)]: value for key, value in row.items() if letters(key) in names}
            yield first, row | ({"probabilities": given} if given else {})
    except Unreadable as fault:
        raise ValueError(f"{path} {fault}") from None


def _json_rows(lines: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise Unreadable(f"holds no JSON object in line {number}: {line[:80]!r}")
            yield number, row


def _places(studies: Sequence[Study], relative: Mapping[str, str]) -> _Places:
    """Id and the image's path within its set, by each name that a row may begin to be found with."""
    places: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    for study in studies:
        parts = PurePosixPath(relative[study.study_id]).parts
        for key in {study.study_id, study.study_id.partition(":")[2], parts[-1]}:
            places[key].append((study.study_id, parts))
    return places


def _matches(name: str, places: _Places) -> list[str]:
    """The studies that ``name`` may mean: an id, or a path that ends as an image's does, or that one ends as."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    whole = [study for study, _ in places.get(name, ()) if name in (study, study.partition(":")[2])]
    if whole or not parts:
        return whole
    return [study for study, own in places.get(parts[-1], ()) if all(map(str.__eq__, own[::-1], parts[::-1]))]


def _kind(rows: Sequence[Mapping[str, Any]], faults: dict[str, list[str]]) -> str:
    """Which of text, labels and probabilities the rows give: one of them, and all rows the same."""
    kinds = {tuple(key for key in _OWN if row.get(key) is not None) for row in rows}
    if rows and (len(kinds) != 1 or len(next(iter(kinds))) != 1):
        said = " | ".join(" and ".join(kind) or "none of them" for kind in sorted(kinds))
        faults["give one of text, labels and probabilities, the same in all rows; found"].append(said)
        return ""
    return next(iter(kinds))[0] if rows else ""


def _shares(given: Any, label_set: LabelSet) -> list[float]:
    """The probability of each label; raises Misfit."""
    if not isinstance(given, Mapping):
        raise Misfit("with probabilities that are no mapping of labels", repr(given))
    named = {_label(name, label_set): value for name, value in given.items()}
    if len(named) < len(given):
        raise Misfit("with more than one probability of a label", ", ".join(map(str, given)))
    if lost := [label for label in label_set if label not in named]:
        raise Misfit("without a probability of some labels (give all, or choose labels=)", ", ".join(lost))
    shares = []
    for label in label_set:
        try:
            share = float(named[label]) if not isinstance(named[label], bool) else math.nan
        except (TypeError, ValueError):
            share = math.nan
        if not 0.0 <= share <= 1.0:
            raise Misfit("with a probability outside 0..1", f"{label} = {named[label]!r}")
        shares.append(share)
    return shares


def _label(name: str, label_set: LabelSet) -> str:
    if folded(str(name)) not in label_set.by_name:
        raise Misfit(f"with an unknown label ('{label_set.name}' has: {', '.join(label_set)})", repr(name))
    return label_set.by_name[folded(str(name))]


def _completion(
    study_id: str, kind: str, row: Mapping[str, Any], chosen: Any, answer_format: AnswerFormat
) -> Completion:
    """A row as an answer; raises Misfit."""
    label_set = answer_format.label_set
    if kind == "text":
        n_tokens = next((row[key] for key in _TOKENS if row.get(key) not in (None, "")), 0)
        if not isinstance(row["text"], str) or not re.fullmatch(r"\d+(\.0*)?", str(n_tokens)):
            raise Misfit("with a text that is no text, or tokens that are no count", f"{row['text']!r}, {n_tokens!r}")
        parsed = answer_format.parse(row["text"])
        if isinstance(row.get("named"), list) and row["named"] != [*parsed.labels]:  # of a file that chexreason wrote
            raise Misfit("that read differently than the file says (set prompt= and labels= as then)", row["named"])
        return Completion(study_id, row["text"], parsed, int(float(n_tokens)))
    if kind == "probabilities":
        named = set(label_set.decode(chosen))
    else:
        given = row["labels"] if isinstance(row["labels"], list) else re.split(r"[,;|\n]", str(row["labels"]))
        named = {_label(name, label_set) for name in given if str(name).strip()}
    labels = tuple(label for label in label_set if label in named)
    if not labels:  # no answer in words says so, and a tool that names nothing has broken no format
        return Completion(study_id, "", Parsed(()), 0)
    text = format_answer("", labels, answer_format.grammar)
    return Completion(study_id, text, answer_format.parse(text), 0)


def _listed(faults: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Each kind of fault with its count, its first rows and the way out."""
    lacking = "a study without an answer is a row with an empty text; data.test=[...] and split= say what is asked for"
    for what, rows in faults.items():
        shown = ", ".join(rows[:_SHOWN]) + (f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else "")
        if what.startswith("give"):
            yield f"{what} {shown}"
        elif what.endswith("have no row"):
            yield f"{len(rows):,} {what}: {shown}; {lacking}"
        else:
            way_out = "; drop_surplus=true leaves them out" if what.startswith("of no") else ""
            yield f"{len(rows):,} rows {what}, in line {shown}{way_out}"
