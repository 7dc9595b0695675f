"""Confidence intervals by resampling patients: studies of one patient are not independent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from chexreason.statistics.metrics import FloatArray, averages, confusion, jaccard_overlap, precision_recall_f1, ratio
from chexreason.statistics.predictions import VOCABULARY, counts, on_judged, vocabulary
from chexreason.types import Prediction

STATISTICS = ("macro_f1", "macro_f1_supported", "micro_f1", "jaccard", "fail_rate")
PRECISION_RECALL = ("micro_precision", "micro_recall", "macro_precision", "macro_recall")
_CHUNK = 512  # resamples at a time: the weights [_CHUNK, P] stay in the cache
_LEVEL = 0.95  # of every interval
Z = NormalDist().inv_cdf((1 + _LEVEL) / 2)  # of two-sided intervals
_SAME = 1e-12  # bounds that differ by rounding alone
_PRIOR = (0.25, 0.5)  # hits and errors added to each label for a lower bound; the other way round for an upper one


@dataclass(frozen=True)
class Interval:
    """A figure and its two-sided interval; the bounds are NaN where resampling cannot give one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Replicates:
    """Every statistic of one arm on one data set, on the data (``value``) and on each resample (``draws``, [R]).

    ``smoothed`` are other draws [2, R], for the lower and for the upper bound of statistics whose resamples mislead.
    """

    studies: Mapping[str, str]
    seed: int
    value: Mapping[str, float]
    draws: Mapping[str, FloatArray]
    smoothed: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def n_patients(self) -> int:
        """Number of resampled units."""
        return len(set(self.studies.values()))

    def percentiles(self, name: str) -> Interval:
        """The value of a statistic with its percentile interval."""
        return percentile_interval(self.value[name], self.draws[name], self.n_patients)


def replicates(
    predictions: Sequence[Prediction], labels: Sequence[str], n_resamples: int = 10_000, seed: int = 0
) -> Replicates:
    """The patient-clustered bootstrap of ``STATISTICS``, ``VOCABULARY``, ``PRECISION_RECALL`` and ``f1/<label>``.

    Patients are drawn with replacement, each with all its studies (Field and Welsh 2007, cluster bootstrap). Two arms
    resampled with the same seed on the same studies see the same draws. Studies without a judged label are left out.
    Raises ValueError without predictions, and where no study has a judged label.
    """
    if not predictions:
        raise ValueError("no predictions to resample; is the data set empty in predictions.jsonl?")
    judged = on_judged(predictions, labels)
    totals = np.column_stack([_by_patient(vocabulary(judged), judged), patient_totals(judged, labels)])
    said, sums = np.split(resampled_sums(totals, n_resamples, seed), [len(VOCABULARY)], axis=1)  # [1 + R, 3 L + 3]
    rates = dict(zip(VOCABULARY, (said / sums[:, [-3]]).T, strict=True))
    sample = as_replicates(statistics(sums, labels) | rates, judged, seed)
    return replace(sample, smoothed=_smoothed(sums[1:] / max(totals[:, -3].mean(), 1.0), labels, seed))


def _smoothed(sums: FloatArray, labels: Sequence[str], seed: int) -> dict[str, FloatArray]:
    """Macro-F1 and each label's F1 of resampled ``sums`` [R, 3 L + 3] with the random ``_PRIOR`` added, each [2, R].

    A label's F1 is 2 J / (1 + J) of the share J of hits among hits and errors. Added gamma counts make a draw of J one
    of its posterior under a beta prior, so a label that is hardly there can have any F1. Arms share what is added.
    ``sums`` count in patients: studies divided by their mean number a patient.
    """
    hits = sums[:, :-3].reshape(len(sums), 3, len(labels))  # [R, 3, L]
    few, more = np.random.default_rng([seed, 1]).gamma(np.reshape(_PRIOR, (2, 1, 1)), size=(2, len(sums), len(labels)))
    tp, wrong = hits[:, 0], hits[:, 1] + hits[:, 2]
    share = np.stack([ratio(t, t + w) for t, w in ((tp + few, wrong + more), (tp + more, wrong + few))])  # [2, R, L]
    f1 = 2 * share / (1 + share)
    return {"macro_f1": f1.mean(axis=2)} | {f"f1/{name}": f1[:, :, i] for i, name in enumerate(labels)}


def as_replicates(columns: Mapping[str, FloatArray], predictions: Sequence[Prediction], seed: int) -> Replicates:
    """Statistics by name, each [1 + R]: its value on the data, then its value on each of R resamples."""
    return Replicates(
        studies={p.study_id: p.patient_id for p in predictions},
        seed=seed,
        value={name: float(column[0]) for name, column in columns.items()},
        draws={name: column[1:] for name, column in columns.items()},
    )


def resampled_sums(totals: FloatArray, n_resamples: int, seed: int) -> FloatArray:
    """Sums [1 + R, C] of the patients' ``totals`` [P, C]: over all patients, then over each of R resamples."""
    blocks = [weights @ totals for weights in patient_weights(len(totals), n_resamples, seed)]
    return np.concatenate([totals.sum(axis=0, keepdims=True), *blocks])


def patient_weights(n_patients: int, n_resamples: int, seed: int) -> Iterator[FloatArray]:
    """How often each patient is drawn, ``n_resamples`` rows [P] in blocks; the same seed gives the same rows."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_resamples, _CHUNK):
        size = min(_CHUNK, n_resamples - start)
        picks = rng.integers(n_patients, size=(size, n_patients)) + n_patients * np.arange(size)[:, None]
        weights = np.bincount(picks.ravel(), minlength=size * n_patients).reshape(size, n_patients)
        yield weights.astype(np.float64)


def intervals(sample: Replicates) -> dict[str, Interval]:
    """The interval of every statistic: percentile, except where resampling with replacement misleads.

    A drawn patient comes several times, as ties that are right or wrong together: average precision rises in every
    resample, so its interval is the percentile one reflected about the value (basic bootstrap); calibration error
    rises even more and has none. A rate of answers of 0 or 1 has Wilson's interval, over patients. A label with few
    positives is often missing in a resample, and F1 is then 0: macro-F1 and a label's F1 have the percentile interval
    of smoothed draws, which covers 94 to 100 % where the plain one covers 19 to 94 % (``make bench-coverage``). Bounds
    are NaN where there is none: one patient, or no spread in the draws, which does not make a figure certain.
    """
    return {name: _interval(sample, name) for name in sample.value}


def _interval(sample: Replicates, name: str) -> Interval:
    value, measure = sample.value[name], name.removeprefix("macro_").partition("/")[0]
    if name in ("fail_rate", *VOCABULARY) and value in (0.0, 1.0):
        return Interval(value, *wilson(round(value * sample.n_patients), sample.n_patients))
    if name in sample.smoothed:
        lower, upper = (percentile_interval(value, draws, sample.n_patients) for draws in sample.smoothed[name])
        return Interval(value, float(np.minimum(value, lower.low)), float(np.maximum(value, upper.high)))
    found = sample.percentiles(name)
    if measure == "ece" or found.high - found.low < _SAME:
        return Interval(value, math.nan, math.nan)
    if measure == "average_precision":
        return Interval(value, max(2 * value - found.high, 0.0), min(2 * value - found.low, 1.0))
    return found


def paired(a: Replicates, b: Replicates) -> dict[str, Interval]:
    """The interval of the difference b - a of every statistic, from common resamples of the same studies.

    Raises ValueError when the two arms were not evaluated on the same studies or not resampled alike.
    """
    change = difference(a, b)
    return {name: change.percentiles(name) for name in change.value}


def difference(a: Replicates, b: Replicates) -> Replicates:
    """Every statistic of b minus that of a, on the data and on each common resample; refuses as ``paired``."""
    check_paired(a, b)
    return replace(
        a,
        value={name: b.value[name] - a.value[name] for name in a.value},
        draws={name: b.draws[name] - a.draws[name] for name in a.draws},
        smoothed={},
    )


def check_paired(a: Replicates, b: Replicates) -> None:
    """Refuse (ValueError) two samples that are not of the same studies and resampled alike."""
    if a.studies != b.studies:
        only_a, only_b = sorted(set(a.studies) - set(b.studies)), sorted(set(b.studies) - set(a.studies))
        raise ValueError(
            "cannot pair two arms evaluated on different studies: "
            f"{len(only_a)} only in the first {only_a[:3]}, {len(only_b)} only in the second {only_b[:3]}; "
            "evaluate both arms on the same manifest"
        )
    if a.seed != b.seed or any(len(a.draws[name]) != len(b.draws[name]) for name in a.draws):
        raise ValueError("cannot pair resamples drawn with different seeds or in different numbers")


def seed_mean(samples: Sequence[Replicates]) -> Replicates:
    """One arm trained with several seeds: the mean over seeds of every value and of every draw.

    The draws are of the same patients, so intervals hold the patients' uncertainty about the mean of these seeds, not
    the seeds' own spread. Raises ValueError when the seeds were evaluated on different studies or resampled unlike.
    """
    first = samples[0]
    for other in samples[1:]:
        check_paired(first, other)
    return replace(
        first,
        value={name: sum(sample.value[name] for sample in samples) / len(samples) for name in first.value},
        draws={name: np.mean([sample.draws[name] for sample in samples], axis=0) for name in first.draws},
        smoothed={name: np.mean([sample.smoothed[name] for sample in samples], axis=0) for name in first.smoothed},
    )


def over_labels(sample: Replicates, labels: Sequence[str]) -> Replicates:
    """The macro-F1 of ``sample`` over some of its labels, at least one, on the data and on each resample."""
    chosen = {f"f1/{label}" for label in labels}
    whole = chosen == {name for name in sample.value if name.startswith("f1/")}
    names = ["macro_f1"] if whole else sorted(chosen)
    value, draws = np.mean([sample.value[n] for n in names]), np.mean([sample.draws[n] for n in names], axis=0)
    return replace(sample, value={"macro_f1": float(value)}, draws={"macro_f1": draws}, smoothed={})


def patient_totals(predictions: Sequence[Prediction], labels: Sequence[str]) -> FloatArray:
    """Sums of each patient [P, 3 L + 3]: tp, fp, fn a label, studies, Jaccard, failures; patients in sorted order.

    Studies without a judged label count for nothing, and patients without another study are left out.
    """
    predictions = on_judged(predictions, labels)
    hits = confusion(*counts(predictions, labels))  # [N, 3, L]
    failed = np.array([p.broken is not None for p in predictions], dtype=np.float64)  # [N]
    # An unusable answer earns nothing, even where nothing was to be found.
    overlap = jaccard_overlap(hits) * (1 - failed)
    rows = np.column_stack([hits.reshape(len(hits), -1), np.ones_like(failed), overlap, failed])
    return _by_patient(rows, predictions)


def _by_patient(rows: FloatArray, predictions: Sequence[Prediction]) -> FloatArray:
    """Sums [P, C] of the ``rows`` [N, C] of each patient's predictions."""
    owner = owners(predictions)
    totals = np.zeros((owner.max() + 1, rows.shape[1]))
    np.add.at(totals, owner, rows)
    return totals


def owners(predictions: Sequence[Prediction]) -> NDArray[np.intp]:
    """The number of each prediction's patient [N], patients counted from 0 in sorted order."""
    return np.unique([p.patient_id for p in predictions], return_inverse=True)[1]


def statistics(sums: FloatArray, labels: Sequence[str]) -> dict[str, FloatArray]:
    """Statistics [R] by name of summed rows [R, 3 L + 3]."""
    hits = sums[:, :-3].reshape(len(sums), 3, len(labels))  # [R, 3, L]
    mean = averages(hits, np.ones(len(labels), dtype=bool))
    mean["jaccard"], mean["fail_rate"] = sums[:, -2] / sums[:, -3], sums[:, -1] / sums[:, -3]
    f1 = precision_recall_f1(hits)[2]
    values = {name: mean[name] for name in STATISTICS + PRECISION_RECALL}
    return values | {f"f1/{name}": f1[:, i] for i, name in enumerate(labels)}


def wilson(k: float, n: int) -> tuple[float, float]:
    """Wilson's (1927) interval of the proportion ``k`` of ``n``; it has a width at 0 and 1 too."""
    if 2 * k > n:
        low, high = wilson(n - k, n)
        return 1 - high, 1 - low
    middle, reach = k + Z**2 / 2, Z * math.sqrt(k * (n - k) / n + Z**2 / 4)
    return (middle - reach) / (n + Z**2), (middle + reach) / (n + Z**2)


def percentile_interval(value: float, draws: FloatArray, n_patients: int) -> Interval:
    """``value`` with the middle 95 % of its ``draws`` [R], NaN draws left out; bounds are NaN for one patient."""
    if n_patients < 2 or np.isnan(draws).all():
        return Interval(value, math.nan, math.nan)
    tail = (1 - _LEVEL) / 2
    low, high = np.nanquantile(draws, (tail, 1 - tail)).tolist()
    return Interval(value, low, high)
