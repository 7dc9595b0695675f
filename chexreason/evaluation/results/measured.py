"""One run's figures on one data set: the mean over its seeds, its interval over patients, and each seed's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chexreason.evaluation.bootstrap import Interval, intervals, replicates, seed_mean
from chexreason.evaluation.comparable import basis, set_facts
from chexreason.evaluation.paper.printed import MACRO
from chexreason.evaluation.predictions import counts, datasets, evaluated_labels
from chexreason.evaluation.trivial import trivial_rows
from chexreason.labels.schema import LabelSet
from chexreason.types import Prediction

Runs = Mapping[str, Mapping[int, Sequence[Prediction]]]  # of each run, the predictions of each seed


@dataclass(frozen=True)
class Entry:
    """A figure of ours (None: not run), each seed's own where there are several, and the printed one where there is."""

    ours: Interval | None = None
    seeds: tuple[float, ...] = ()
    paper: float | None = None


@dataclass(frozen=True)
class Measured:
    """Everything a table needs of one data set: ``runs`` and ``trivial`` by name, each a figure by statistic.

    Statistics are those of the bootstrap; ``labels`` are the ones judged, ``basis`` the policy they stand on.
    """

    labels: tuple[str, ...]
    basis: str
    runs: Mapping[str, Mapping[str, Entry]]
    trivial: Mapping[str, Mapping[str, Entry]]


def measure(
    runs: Runs,
    dataset: str,
    label_set: LabelSet,
    prevalence: Mapping[str, float],
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Measured:
    """The figures of ``runs`` on ``dataset``; a run without it is absent, as is one without a seed.

    Raises ValueError where runs stand on different label policies, data or studies, with both named.
    """
    rows = {
        run: {k: found for k, p in sorted(seeds.items()) if (found := datasets(p).get(dataset))}
        for run, seeds in runs.items()
    }
    rows = {run: seeds for run, seeds in rows.items() if seeds}
    if not rows:
        return Measured((), "", {}, {})
    named = {_shown(run, k, seeds): found for run, seeds in rows.items() for k, found in seeds.items()}
    facts = set_facts(named, label_set)
    _check_studies(dataset, named)
    some = next(iter(named.values()))
    labels = evaluated_labels(some, label_set)
    _, truth, mask = counts(some, labels)
    trivial = trivial_rows(truth, mask, labels, prevalence)
    return Measured(
        labels=labels,
        basis=f"{basis(facts, {})}; {len(some)} studies",
        runs={run: _entries(seeds, labels, n_resamples, seed) for run, seeds in rows.items()},
        trivial={name: {s: Entry(_exact(v)) for s, v in scores.items()} for name, scores in trivial.items()},
    )


def _entries(
    seeds: Mapping[int, Sequence[Prediction]], labels: Sequence[str], n_resamples: int, seed: int
) -> dict[str, Entry]:
    samples = [replicates(found, labels, n_resamples, seed) for found in seeds.values()]
    several = len(samples) > 1
    return {
        name: Entry(ours, tuple(sample.value[name] for sample in samples) if several else ())
        for name, ours in intervals(seed_mean(samples)).items()
    }


def by_label(entries: Mapping[str, Entry], labels: Sequence[str]) -> dict[str, Entry]:
    """F1 of each label and their mean, under the names the paper's Tables 5 and 6 give their rows."""
    return {label: entries[f"f1/{label}"] for label in labels} | {MACRO: entries["macro_f1"]}


def _check_studies(dataset: str, named: Mapping[str, Sequence[Prediction]]) -> None:
    """Figures of different studies are not compared in a table, even under one policy and one manifest."""
    (first, found), *others = named.items()
    known = {p.study_id for p in found}
    faults = []
    for name, rows in others:
        here = {p.study_id for p in rows}
        if here != known:
            faults.append(
                f"{first} and {name}: {len(known - here)} only in the first {sorted(known - here)[:3]}, "
                f"{len(here - known)} only in the second {sorted(here - known)[:3]}"
            )
    if faults:
        raise ValueError(
            f"{dataset}: these runs answered different studies and cannot stand in one table:\n  "
            + "\n  ".join(faults)
            + "\nevaluate them again on one data config, with one limit and one seed of it"
        )


def _shown(run: str, seed: int, seeds: Mapping[int, object]) -> str:
    return f"{run} (seed {seed})" if len(seeds) > 1 else run


def _exact(value: float) -> Interval:
    """A trivial answer is shown without an interval: it is a floor, not an estimate of anything learned."""
    return Interval(value, float("nan"), float("nan"))
