"""What figures of the paper's tables stand on, and how the answers behind them came about, as their notes say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from chexreason.labels.schema import LabelSet
from chexreason.statistics.comparable import UNRECORDED, basis, check_studies, set_facts
from chexreason.statistics.predictions import datasets
from chexreason.types import Prediction

_SHIPPED = "tiny:"  # how a model's source begins where it is one of the package's own


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
    """What figures stand on: the facts of each data set (``set_facts``) and the runs' origins.

    ``not_run`` are runs that were to be compared and have no answers or scores yet.
    """

    facts: Mapping[str, Mapping[str, Any]]
    origins: Origins
    not_run: tuple[str, ...] = ()

    def stamped(self, lines: pd.DataFrame) -> pd.DataFrame:
        """Lines of a CSV with split, label policy and data hash of their ``dataset``; none on a missing one."""
        there = lines["dataset"].where(lines["status"] != "missing") if "status" in lines else lines["dataset"]
        facts = {
            field: there.map({name: found[field] for name, found in self.facts.items()})
            for field in ("policy", "data_sha256")
        }
        return lines.assign(split=there.map(dict.fromkeys(self.facts, self._split())), **facts)

    def sentence(self) -> str:
        """Label policy, labels, data, split and number of studies of every set, and what else its notes must say."""
        shown = ", ".join(f"{found['n_studies']} studies at {name}" for name, found in self.facts.items())
        lacking = [f"Not run, and not compared here: {', '.join(self.not_run)}."] if self.not_run else []
        said = f"{basis(self.facts)}; split {self._split()}: {shown}."
        return " ".join([said, *lacking, *self._chosen(), *self._stand_ins()])

    def _split(self) -> str:
        """The split of the runs, all of them where there are several."""
        return "/".join(sorted({run.split for run in self.origins.values() if run.split})) or UNRECORDED

    def _chosen(self) -> list[str]:
        """Runs whose checkpoint was chosen on what is scored here, in a sentence."""
        on = {run: set(found.chosen_on) for run, found in self.origins.items() if found.split == "val"}
        runs = ", ".join(run for run, sets in on.items() if sets & set(self.facts))
        return [f"Checkpoints of {runs} were chosen on the studies scored here: expect less on others."] * bool(runs)

    def _stand_ins(self) -> list[str]:
        """Runs of models that stand in for those the paper names, in a sentence."""
        models: dict[str, list[str]] = {}
        for run, origin in self.origins.items():
            if origin.model.startswith(_SHIPPED):
                models.setdefault(origin.model.removeprefix(_SHIPPED), []).append(run)
        shown = "; ".join(f"{model} for {', '.join(runs)}" for model, runs in models.items())
        return [f"Shipped stand-ins, not the models the paper names: {shown}."] * bool(shown)


def common_ground(
    answers: Mapping[str, Sequence[Prediction]],
    sets: Sequence[str],
    label_set: LabelSet,
    origins: Origins,
    not_run: Sequence[str] = (),
) -> Ground:
    """What the named ``answers`` on ``sets`` stand on together.

    Raises ValueError where they stand on different label policies, data, truths or studies, with both named.
    """
    kept = {run: [p for p in rows if p.dataset in sets] for run, rows in answers.items()}
    facts = set_facts(kept, label_set)
    for name in facts:
        check_studies(name, {run: found for run, rows in kept.items() if (found := datasets(rows).get(name))})
    return Ground(facts, origins, tuple(not_run))


def by_seed(runs: Mapping[str, Mapping[int, Sequence[Prediction]]]) -> dict[str, Sequence[Prediction]]:
    """The predictions of each seed of ``runs`` under the run's name, which says the seed where there are several."""
    return {
        f"{run} (seed {k})" if len(seeds) > 1 else run: rows for run, seeds in runs.items() for k, rows in seeds.items()
    }
