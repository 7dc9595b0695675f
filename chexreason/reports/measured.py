"""One run's figures on one data set: the mean over its seeds, its interval over patients, and each seed's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chexreason.labels.schema import LabelSet
from chexreason.reports.printed import MACRO
from chexreason.statistics.bootstrap import Interval, intervals, replicates, seed_mean
from chexreason.statistics.comparable import check_studies, set_facts
from chexreason.statistics.predictions import counts, datasets, evaluated_labels
from chexreason.statistics.trivial import trivial_rows
from chexreason.types import Prediction

FAILED = "Fail rate"
Runs = Mapping[str, Mapping[int, Sequence[Prediction]]]  # of each run, the predictions of each seed


@dataclass(frozen=True)
class Entry:
    """A figure of ours (None: not run), each seed's own where there are several, and what stands beside it.

    That is ``paper``, the printed one, or ``computed``, which follows from published counts and nobody printed.
    """

    ours: Interval | None = None
    seeds: tuple[float, ...] = ()
    paper: float | None = None
    computed: float | None = None


@dataclass(frozen=True)
class Measured:
    """Everything a table needs of one data set: ``runs`` and ``trivial`` by name, each a figure by statistic.

    Statistics are those of the bootstrap; ``labels`` are the ones judged, ``facts`` what they stand on (``set_facts``).
    """

    labels: tuple[str, ...]
    facts: Mapping[str, Any]
    n_studies: int
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
        return Measured((), {}, 0, {}, {})
    named = {_shown(run, k, seeds): found for run, seeds in rows.items() for k, found in seeds.items()}
    facts = set_facts(named, label_set)
    check_studies(dataset, named)
    some = next(iter(named.values()))
    labels = evaluated_labels(some, label_set)
    _, truth, mask = counts(some, labels)
    trivial = trivial_rows(truth, mask, labels, prevalence)
    return Measured(
        labels=labels,
        facts=facts[dataset],
        n_studies=len(some),
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
    """F1 of each label and their mean, as the paper's Tables 5 and 6 name their rows, and the fail rate beside them."""
    each = {label: entries[f"f1/{label}"] for label in labels}
    return each | {MACRO: entries["macro_f1"], FAILED: entries["fail_rate"]}


def _shown(run: str, seed: int, seeds: Mapping[int, object]) -> str:
    return f"{run} (seed {seed})" if len(seeds) > 1 else run


def _exact(value: float) -> Interval:
    """A trivial answer is shown without an interval: it is a floor, not an estimate of anything learned."""
    return Interval(value, float("nan"), float("nan"))
