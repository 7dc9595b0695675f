"""Which traces are reviewed: a seeded sample in which every label has its share."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from chexreason.traces.trace import Trace

NO_LABEL = "(no positive label)"


def strata(trace: Trace) -> tuple[str, ...]:
    """The labels a trace counts for; one without any counts as ``NO_LABEL``."""
    return trace.labels or (NO_LABEL,)


def draw_sample(traces: Sequence[Trace], n: int, seed: int) -> list[Trace]:
    """``n`` of ``traces`` (all, where there are fewer), balanced over labels, in random order.

    One trace at a time, for the label that the sample has least of (the rarer one first where they tie), so every
    label is present once ``n`` reaches their number; a patient who is not in the sample yet goes first. The result
    depends on the traces and the seed, not on the order of the file. Raises ValueError where ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"a review needs at least one trace, n={n}")
    rng = random.Random(seed)
    shuffled = sorted(traces, key=lambda trace: trace.key)
    rng.shuffle(shuffled)
    supply = Counter(label for trace in shuffled for label in strata(trace))
    queues = {label: [trace for trace in shuffled if label in strata(trace)] for label in sorted(supply)}
    drawn: dict[tuple[str, str], Trace] = {}
    have: Counter[str] = Counter()
    patients: set[str] = set()
    while len(drawn) < min(n, len(shuffled)):
        queues = {label: left for label, q in queues.items() if (left := [t for t in q if t.key not in drawn])}
        label = min(queues, key=lambda name: (have[name], supply[name], name))
        chosen = next((t for t in queues[label] if t.patient_id not in patients), queues[label][0])
        drawn[chosen.key] = chosen
        have.update(strata(chosen))
        patients.add(chosen.patient_id)
    sample = list(drawn.values())
    rng.shuffle(sample)  # else the rare labels all come first
    return sample
