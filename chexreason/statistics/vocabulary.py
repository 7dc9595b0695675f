"""Answers in the model's own words: what they say, and how much of a change between two arms comes with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from chexreason.labels.schema import folded
from chexreason.statistics.bootstrap import Replicates, difference, replicates, seed_mean
from chexreason.statistics.predictions import VOCABULARY, on_judged, vocabulary, vocabulary_rates
from chexreason.types import Prediction

Seeds = Sequence[Sequence[Prediction]]  # of one arm on one data set, the predictions of each seed


def mean_rates(seeds: Seeds, labels: Sequence[str]) -> dict[str, float]:
    """The rates of ``VOCABULARY`` of all seeds where one of ``labels`` is judged; NaN where they are not recorded."""
    return vocabulary_rates(np.concatenate([vocabulary(on_judged(rows, labels)) for rows in seeds]))


def frequent_unknown(predictions: Sequence[Prediction], n: int = 5) -> list[tuple[str, int]] | None:
    """The ``n`` most frequent items that are no labels, as first written, with their counts; None where not recorded.

    Upper and lower case, and different spaces, dashes or invisible characters, are one item.
    """
    if any(p.unknown is None for p in predictions):
        return None
    items = [" ".join(item.split()) for p in predictions for item in p.unknown or ()]
    written = {folded(item): item for item in reversed(items)}
    return [(written[name], count) for name, count in Counter(map(folded, items)).most_common(n)]


def vocabulary_shift(a: Seeds, b: Seeds, labels: Sequence[str], n_resamples: int, seed: int) -> dict[str, Any]:
    """What of a change in macro-F1 from arm ``a`` to ``b`` comes with a change in what the label list can read.

    ``before`` and ``after`` are the arms' rates, ``change`` is that of macro-F1 on all studies, and ``readable`` that
    on the ``n_readable`` of them where every answer keeps the format and names labels ``alone``; where only the share
    of answers without a label moves, or a label among other items (None where there is no study). Empty where the files
    do not record it, and where no rate clearly falls (interval below 0) while macro-F1 rises, or clearly rises while it
    falls.
    """
    a, b = ([on_judged(rows, labels) for rows in arm] for arm in (a, b))
    before, after = mean_rates(a, labels), mean_rates(b, labels)
    if any(map(math.isnan, [*before.values(), *after.values()])) or before == after:
        return {}
    change = _change(a, b, labels, n_resamples, seed)
    macro_f1, rates = change.percentiles("macro_f1"), {name: change.percentiles(name) for name in VOCABULARY}
    moved = [name for name, rate in rates.items() if (rate.high < 0 if macro_f1.value > 0 else rate.low > 0)]
    if not moved or macro_f1.value == 0:
        return {}
    alone = "unknown_rate" in moved
    answers = [p for rows in (*a, *b) for p in rows]
    lost = {p.study_id for p in answers if p.broken is not None or (p.unknown and (alone or not p.named))}
    read_a, read_b = ([[p for p in rows if p.study_id not in lost] for rows in seeds] for seeds in (a, b))
    kept = _change(read_a, read_b, labels, n_resamples, seed).percentiles("macro_f1") if read_a[0] else None
    shift = {"before": before, "after": after, "change": asdict(macro_f1), "alone": alone, "n_readable": len(read_a[0])}
    return shift | {"readable": asdict(kept) if kept else None}


def _change(a: Seeds, b: Seeds, labels: Sequence[str], n_resamples: int, seed: int) -> Replicates:
    return difference(*(seed_mean([replicates(rows, labels, n_resamples, seed) for rows in arm]) for arm in (a, b)))
