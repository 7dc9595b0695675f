"""How often the 95 % intervals hold the truth: macro-F1, micro-F1 and differences of arms, by patients and rarity.

    make bench-coverage         # 2,000 simulated test sets a row

Truth is known: labels of known prevalence, arms of known sensitivity and precision, each set drawn anew, intervals as
every table gets them. ``plain`` is the percentile interval of macro-F1 without smoothing. Prints a table and writes
``out/bench/coverage.json``. A coverage of 0.95 from 2,000 sets has a standard error of 0.005.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping

import numpy as np
from scipy.special import ndtri

from benchmarks.measure import FOLDER
from chexreason.files import write_json
from chexreason.labels.catalog import CHEXPERT14
from chexreason.statistics.bootstrap import intervals, paired, replicates
from chexreason.types import Prediction

PATIENTS = (50, 100, 200, 500)
RESAMPLES = 500
TOGETHER = 0.3  # correlation of the labels' latent causes
SAME = 0.7  # share of answers in which the second arm repeats the first
_SPREAD = np.geomspace(0.02, 0.5, 14)
_SKILL = np.random.default_rng(1).uniform(0.2, 0.7, 14)
# Of each world: prevalence of its labels, and the sensitivity and precision of the first arm.
WORLDS = {
    "prevalence .02 to .5, mixed skill": (_SPREAD, _SKILL),
    "prevalence .02 to .5, low skill": (_SPREAD, np.full(14, 0.2)),
    "prevalence .02 to .5, high skill": (_SPREAD, np.full(14, 0.8)),
    "prevalence .02 to .5, rare ones seen best": (_SPREAD, np.linspace(0.8, 0.2, 14)),
    "nine labels of prevalence .02": (np.full(9, 0.02), _SKILL[:9]),
    "nine labels of prevalence .1": (np.full(9, 0.1), np.full(9, 0.5)),
    "five labels of prevalence .2": (np.full(5, 0.2), np.full(5, 0.5)),
    "one label of prevalence .05": (np.full(1, 0.05), np.full(1, 0.5)),
}


def rates(prevalence: np.ndarray, skill: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often a present and an absent label is named, at sensitivity and precision ``skill``."""
    return skill, np.minimum(prevalence * (1 - skill) / (1 - prevalence), 1.0)


def population(prevalence: np.ndarray, skill: np.ndarray) -> dict[str, float]:
    """The true macro-F1 and micro-F1."""
    seen, false = rates(prevalence, skill)
    tp, wrong = prevalence * seen, prevalence * (1 - seen) + (1 - prevalence) * false
    micro = 2 * tp.sum() / (2 * tp + wrong).sum()
    return {"macro_f1": float(np.mean(2 * tp / (2 * tp + wrong))), "micro_f1": float(micro)}


def coverage(prevalence: np.ndarray, skill: np.ndarray, n: int, n_sets: int, seed: int = 0) -> dict[str, float]:
    """Share of ``n_sets`` simulated sets of ``n`` patients whose interval holds the truth, by figure."""
    rng, labels = np.random.default_rng(seed), CHEXPERT14.labels[: len(prevalence)]
    skills = {"a": skill, "b": np.clip(skill * 1.2, 0, 0.9)}
    true = {arm: population(prevalence, own) for arm, own in skills.items()}
    held: Counter[str] = Counter()
    for number in range(n_sets):
        shared, own = rng.standard_normal((n, 1)), rng.standard_normal((n, len(labels)))
        truth = np.sqrt(TOGETHER) * shared + np.sqrt(1 - TOGETHER) * own < ndtri(prevalence)
        luck = rng.random(truth.shape)
        lucks = {"a": luck, "b": np.where(rng.random(truth.shape) < SAME, luck, rng.random(truth.shape))}
        samples = {}
        for arm, mine in skills.items():
            seen, false = rates(prevalence, mine)
            named = lucks[arm] < np.where(truth, seen, false)
            samples[arm] = replicates(_answers(named, truth, labels), labels, RESAMPLES, seed=number)
        single, change = intervals(samples["a"]), paired(samples["a"], samples["b"])
        for name in ("macro_f1", "micro_f1"):
            held[name] += single[name].low <= true["a"][name] <= single[name].high
            held[f"change in {name}"] += change[name].low <= true["b"][name] - true["a"][name] <= change[name].high
        plain = samples["a"].percentiles("macro_f1")
        held["plain"] += plain.low <= true["a"]["macro_f1"] <= plain.high
    return {name: count / n_sets for name, count in held.items()}


def _answers(named: np.ndarray, truth: np.ndarray, labels: tuple[str, ...]) -> list[Prediction]:
    names = np.array(labels)
    rows = zip(named, truth, strict=True)
    return [
        Prediction(f"s{i}", f"p{i}", "set", "", tuple(names[on].tolist()), tuple(names[is_true].tolist()), labels)
        for i, (on, is_true) in enumerate(rows)
    ]


def main(n_sets: int) -> None:
    """Simulate, print, write."""
    rows: list[Mapping[str, float | str]] = []
    for n in PATIENTS:
        for world, (prevalence, skill) in WORLDS.items():
            found = coverage(prevalence, skill, n, n_sets)
            rows.append({"patients": n, "world": world, "sets": n_sets, **found})
            print(f"{n:>4} {world:<42}", "  ".join(f"{name} {share:.3f}" for name, share in found.items()), flush=True)
    write_json(FOLDER / "coverage.json", rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
