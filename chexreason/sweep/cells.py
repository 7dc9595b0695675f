"""The cells of a sweep: a graph of train, blend, evaluate and scores commands, read, varied and put in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from chexreason.errors import did_you_mean
from chexreason.runs import PREDICTIONS

VERBS = ("prepare", "train", "blend", "evaluate", "scores")
FOLDERS = {"train": "", "blend": "", "evaluate": "eval", "scores": "scores"}  # of a study
CHECKPOINTS = ("best", "last")
PREPARE = "prepare"  # the cell every other one needs where it is there


class CellError(ValueError):
    """A sweep file that cannot be run; the message lists every fault."""


@dataclass(frozen=True)
class Cell:
    """One command of a sweep.

    ``adapter`` is the train or blend cell whose ``checkpoint`` ("best" or "last") is loaded first, ``of`` the evaluate
    cell that a scores cell scores the labels of, ``parents`` the two train cells whose adapters a blend cell mixes,
    ``needs`` the cells that must be done before, these included.
    """

    name: str
    verb: str
    overrides: tuple[str, ...] = ()
    adapter: str | None = None
    checkpoint: str = "best"
    needs: tuple[str, ...] = ()
    of: str | None = None
    parents: tuple[str, ...] = ()

    @property
    def arm(self) -> str:
        """The value of ``arm=`` in its command."""
        return self.of or self.name

    def run_dir(self, study: Path, seed: int) -> Path:
        """The directory of the cell's run; the study's own for a prepare cell, whose data several studies may share."""
        if self.verb == "prepare":
            return study
        return study / FOLDERS[self.verb] / self.arm / f"seed{seed}"

    def arguments(self, study: Path, seed: int) -> list[str]:
        """The overrides that make the command this cell at this seed."""
        if self.verb == "prepare":
            return list(self.overrides)
        given = [*self.overrides, f"arm={self.arm}", f"seed={seed}"]
        loaded = self.parents or (self.adapter,) * bool(self.adapter)
        folders = [study / cell / f"seed{seed}" / "adapter" / self.checkpoint for cell in loaded]  # type: ignore[operator]
        if folders:
            given.append("adapters=[" + ",".join(f"'{folder}'" for folder in folders) + "]")
        if self.verb == "scores":  # an experiment puts an evaluation's run in its own place
            answers = study / FOLDERS["evaluate"] / self.arm / f"seed{seed}" / PREDICTIONS
            given += [f"predictions='{answers}'", f"run_dir='{self.run_dir(study, seed)}'"]
        return given


def read_cells(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, Cell]:
    """Cells from their mappings; raises CellError listing every unknown key, verb, checkpoint and cell, and cycles."""
    faults, cells = [], {}
    for name, node in raw.items():
        faults += _faults(name, node, raw)
        of = node.get("of")
        scored = raw.get(of, {}) if of else {}  # what is scored is loaded as it was evaluated
        adapter = node.get("adapter", scored.get("adapter"))
        parents = tuple(node.get("parents", ()))
        needs = dict.fromkeys((*node.get("needs", ()), *(need for need in (adapter, of, *parents) if need)))
        if name != PREPARE and PREPARE in raw:
            needs = {PREPARE: None, **needs}
        cells[name] = Cell(
            name,
            str(node.get("verb")),
            (*scored.get("overrides", ()), *node.get("overrides", ())),
            adapter,
            node.get("checkpoint", scored.get("checkpoint", "best")),
            tuple(needs),
            of,
            parents,
        )
    if not faults:
        try:
            TopologicalSorter({name: cell.needs for name, cell in cells.items()}).prepare()
        except CycleError as error:  # its second argument names each cell before the one that needs it
            faults = [f"{' needs '.join(reversed(error.args[1]))}: a cycle"]
    if faults:
        raise CellError(f"{len(faults)} faults in the sweep's cells:\n  " + "\n  ".join(faults))
    return cells


def _faults(name: str, node: Mapping[str, Any], raw: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with one cell, a line each."""
    known = ("verb", "overrides", "adapter", "checkpoint", "needs", "of", "parents")
    faults = [f"{name}: {key}: no such key{did_you_mean(key, known)}" for key in node if key not in known]
    if node.get("verb") not in VERBS:
        faults.append(f"{name}: verb={node.get('verb')}; choose one of: {', '.join(VERBS)}")
    if node.get("checkpoint", "best") not in CHECKPOINTS:
        faults.append(f"{name}: checkpoint={node['checkpoint']}; choose one of: {', '.join(CHECKPOINTS)}")
    adapter, parents = node.get("adapter"), node.get("parents") or ()
    for key, cell in [("adapter", adapter), *(("parents", parent) for parent in parents)]:
        if cell in raw and raw[cell].get("verb") not in ("train", "blend"):
            faults.append(f"{name}: {key}={cell} is not a train cell")
    if len(parents) != 2 * (node.get("verb") == "blend"):
        faults.append(f"{name}: a blend cell, and no other, says of which two train cells (parents=)")
    of = node.get("of")
    if (node.get("verb") == "scores") != (of is not None):
        faults.append(f"{name}: a scores cell, and no other, says of which evaluate cell (of=)")
    elif of and raw.get(of, {}).get("verb", "evaluate") != "evaluate":
        faults.append(f"{name}: of={of} is not an evaluate cell")
    needed = [*node.get("needs", ()), *(need for need in (adapter, of, *parents) if need)]
    return faults + [
        f"{name}: needs {need}, which is no cell{did_you_mean(need, raw)}" for need in needed if need not in raw
    ]


def ordered(cells: Mapping[str, Cell], targets: Iterable[str]) -> list[Cell]:
    """``targets`` and everything they need, each once, needs first; raises CellError on a target that is no cell."""
    targets = list(targets)
    if unknown := [name for name in targets if name not in cells]:
        raise CellError("; ".join(f"{name} is no cell{did_you_mean(name, cells)}" for name in unknown))
    found: dict[str, Cell] = {}

    def add(name: str) -> None:
        for need in cells[name].needs:
            add(need)
        found.setdefault(name, cells[name])

    for name in targets:
        add(name)
    return list(found.values())


def vary(cells: Mapping[str, Cell], train: str, evaluate: str, arms: Mapping[str, Sequence[str]]) -> dict[str, Cell]:
    """An ablation: for each arm ``train_<arm>``, a copy of cell ``train`` with the arm's overrides, and ``<arm>``.

    ``<arm>`` is a copy of cell ``evaluate`` that scores it. Raises CellError where either is no cell, or an arm's name
    is taken.
    """
    ordered(cells, (train, evaluate))
    made: dict[str, Cell] = {}
    for arm, overrides in arms.items():
        trained = replace(cells[train], name=f"train_{arm}", overrides=(*cells[train].overrides, *overrides))
        kept = [need for need in cells[evaluate].needs if need != cells[evaluate].adapter]
        scored = replace(cells[evaluate], name=arm, adapter=trained.name, needs=(*kept, trained.name))
        made |= {trained.name: trained, scored.name: scored}
    if taken := sorted(made.keys() & cells.keys()):
        raise CellError(f"arms with the names of other cells: {', '.join(taken)}")
    return made


def wanted(sweep: Mapping[str, Any]) -> list[Cell]:
    """The cells a sweep file wants and what they need, needs first; raises CellError listing its faults.

    ``sweep`` holds ``cells`` and either an ``ablation`` (what ``vary`` takes), or ``rows`` that name cells; with
    neither, all cells are wanted.
    """
    cells = read_cells(sweep["cells"])
    if sweep.get("ablation"):
        varied = vary(cells, **sweep["ablation"])
        return ordered({**cells, **varied}, varied)
    rows = sweep.get("rows")
    return ordered(cells, cells if rows is None else [row["cell"] for row in rows])
