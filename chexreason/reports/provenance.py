"""How the answers in a table came about, as their evaluations recorded it, and what its notes must say of that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chexreason.statistics.comparable import UNRECORDED, basis
from chexreason.statistics.predictions import datasets
from chexreason.types import Prediction

SHIPPED = "tiny:"  # how a model's source begins where it is one of the package's own


@dataclass(frozen=True)
class Origin:
    """The ``split`` a run was scored on, the ``model`` asked, and the sets that chose a checkpoint of it.

    ``chosen_on`` are data sets whose studies of split val chose it. Empty where it is not recorded, or nothing was.
    """

    split: str = ""
    model: str = ""
    chosen_on: tuple[str, ...] = ()


Origins = Mapping[str, Origin]  # of each run


@dataclass(frozen=True)
class Ground:
    """What figures stand on: the facts of each data set (``set_facts``), its number of studies, the runs' origins.

    ``not_run`` are runs that were to be compared and have no answers or scores yet.
    """

    facts: Mapping[str, Mapping[str, Any]]
    n_studies: Mapping[str, int]
    origins: Origins
    not_run: tuple[str, ...] = ()

    @property
    def split(self) -> str:
        """The split of the runs, all of them where there are several."""
        return "/".join(sorted({run.split for run in self.origins.values() if run.split})) or UNRECORDED

    def cells(self, dataset: str) -> tuple[str, str, str]:
        """Split, label policy and data hash of one set, for a line of CSV."""
        return self.split, self.facts[dataset]["policy"], self.facts[dataset]["data_sha256"]

    def sentence(self) -> str:
        """Label policy, labels, data, split and number of studies of every set, and what else its notes must say."""
        shown = ", ".join(f"{n} studies at {name}" for name, n in self.n_studies.items())
        lacking = [f"Not run, and not compared here: {', '.join(self.not_run)}."] if self.not_run else []
        said = f"{basis(self.facts, {})}; split {self.split}: {shown}."
        return " ".join([said, *lacking, *notes(self.origins, [*self.facts])])


GROUND = ("split", "policy", "data_sha256")  # the columns of Ground.cells


def sizes(predictions: Iterable[Prediction], sets: Iterable[str]) -> dict[str, int]:
    """The number of predictions of each of ``sets``."""
    found = datasets(predictions)
    return {name: len(found[name]) for name in sets}


def notes(origins: Origins, sets: Sequence[str]) -> list[str]:
    """A sentence on runs whose checkpoint was chosen on what is scored here, and one on models that are stand-ins."""
    said = []
    chosen = [run for run, origin in origins.items() if origin.split == "val" and set(origin.chosen_on) & set(sets)]
    if chosen:
        said.append(
            f"Checkpoints of {', '.join(chosen)} were chosen on the studies scored here: expect less on others."
        )
    models: dict[str, list[str]] = {}
    for run, origin in origins.items():
        if origin.model.startswith(SHIPPED):
            models.setdefault(origin.model.removeprefix(SHIPPED), []).append(run)
    if models:
        shown = "; ".join(f"{model} for {', '.join(runs)}" for model, runs in models.items())
        said.append(f"Shipped stand-ins, not the models the paper names: {shown}.")
    return said
