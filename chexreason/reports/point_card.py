"""The card of an operating point: what it attains where it was fitted, elsewhere, and without the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from chexreason.reports.tables import Table, TableRow, interval_cell
from chexreason.statistics import decisions
from chexreason.statistics.bootstrap import Interval, difference, intervals, seed_mean
from chexreason.statistics.cuts import Rule, Target, attained, cross_fitted
from chexreason.statistics.metrics import BoolArray, FloatArray
from chexreason.statistics.operating_point import OperatingPoint, ScoreOrigin, apply, probabilities
from chexreason.statistics.predictions import counts
from chexreason.statistics.ranking import expected_calibration_error
from chexreason.types import Prediction

_FIGURES = {
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "jaccard": "Jaccard",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "calls": "labels a film",
    "false_alarms": "false alarms, 100 films",
}
_TWINS = "permuted scores", "metadata alone"
_READING = (
    "Intervals are 95 %: over patients and with the cuts as fitted, of a label's share by Wilson's rule. `cut` is "
    "cross-validated by patient where the cuts were fitted; `apparent` is of the very studies that fitted them. "
    "`skill` is the cut minus the same rule on {twins}, which see no film."
)
Answers = list[list[Prediction]]  # one list a repeat; figures are their mean


@dataclass(frozen=True)
class Judged:
    """Scores [N, L] of one data set with answers, metadata and origin, in one order of the studies."""

    scores: FloatArray
    predictions: Sequence[Prediction]
    origin: ScoreOrigin
    metadata: Sequence[Mapping[str, object]]
    sha256: str = ""
    adapters: tuple[str, ...] = ()

    def of(self, rows: Sequence[int]) -> Judged:
        """Those of some rows alone."""
        some, facts = [self.predictions[i] for i in rows], [self.metadata[i] for i in rows]
        return replace(self, scores=self.scores[list(rows)], predictions=some, metadata=facts)


def point_card(
    point: OperatingPoint,
    rule: Rule,
    tuning: Judged,
    places: Mapping[str, Judged],
    *,
    n_permutations: int = 30,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """What the point attains on the studies it was fitted on and in ``places``: figures of own answers, cut and twins.

    ``rule`` is that which fitted it. Raises ValueError where the point may not be applied to a place (see ``apply``).
    """
    labels, rows = point.origin.labels, tuning.predictions
    _, truth, mask = counts(rows, labels)
    patients, how = [p.patient_id for p in rows], {"n_resamples": n_resamples, "seed": seed}

    def fold(scores: FloatArray, n_repeats: int) -> Answers:
        dealt = cross_fitted(rule, scores, truth, mask, patients, n_repeats=n_repeats, seed=seed)
        return [decisions.decided(rows, named, labels) for named in dealt]

    apparent = tuning.scores >= np.array(point.cuts)
    blind = [fold(tuning.scores[order], 1)[0] for order in decisions.permuted(patients, n_permutations, seed)]
    twins = {_TWINS[0]: blind, _TWINS[1]: fold(decisions.metadata_scores(rows, tuning.metadata, [], labels)[0], 10)}
    cut, home = fold(tuning.scores, 10), (tuning.scores, rows)
    card: dict[str, Any] = {"n": len(rows), "n_patients": len({*patients}), "caveats": list(point.caveats)}
    more = {"apparent": [decisions.decided(rows, apparent, labels)]}
    card["tuning"] = _figures(rows, cut, twins, labels, more, **how) | {"labels": _by_label(apparent, rows, labels)}
    card["places"] = {}
    for name, place in places.items():
        there, ids = place.predictions, [p.study_id for p in place.predictions]
        named = apply(point, place.scores, ids, place.origin, any_convention=True)
        away = (place.scores, there)
        meta, others, missing = decisions.metadata_scores(rows, tuning.metadata, place.metadata, labels)
        twins = {
            _TWINS[0]: decisions.image_blind(rule, home, away, labels, n=n_permutations, seed=seed),
            _TWINS[1]: decisions.image_blind(rule, (meta, rows), (others, there), labels, n=0),
        }
        settled = decisions.coherent(place.scores - np.array(point.cuts), labels)
        more = {"coherent": [decisions.decided(there, settled, labels)]}
        answers = [decisions.decided(there, named, labels)]
        card["places"][name] = _figures(there, answers, twins, labels, more, **how) | {
            "n": len(there),
            "labels": _by_label(named, there, labels),
            "calibration_error": _calibration_errors(point, place),
            "changed_by_coherent": float((settled != named).any(axis=1).mean()),
            "metadata_missing": list(missing),
            "convention": place.origin.convention,
        }
    return card


def _figures(
    rows: Sequence[Prediction],
    cut: Answers,
    twins: Mapping[str, Answers],
    labels: Sequence[str],
    more: Mapping[str, Answers],
    **how: Any,
) -> dict[str, Any]:
    """Figures with intervals of own answers, cut, twins and ``more``; the cut's gain, and its skill above twins."""
    samples = {
        name: seed_mean([decisions.decision_replicates(one, labels, **how) for one in answers])
        for name, answers in {"own": [list(rows)], "cut": cut, **more, **twins}.items()
    }
    samples["gain"] = difference(samples["own"], samples["cut"])
    if "apparent" in samples:
        samples["apparent gain"] = difference(samples["own"], samples["apparent"])
    samples |= {f"skill above {twin}": difference(samples[twin], samples["cut"]) for twin in twins}
    return {name: {k: asdict(v) for k, v in intervals(s).items() if k in _FIGURES} for name, s in samples.items()}


def _by_label(named: BoolArray, rows: Sequence[Prediction], labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    _, truth, mask = counts(rows, labels)
    found = attained(named, truth, mask, [p.patient_id for p in rows])
    return {
        label: {name: asdict(found[name][i]) for name in found} for i, label in enumerate(labels) if mask[:, i].any()
    }


def _calibration_errors(point: OperatingPoint, place: Judged) -> dict[str, float]:
    """Over all judged labels of all studies, in ten bins of equal mass."""
    _, truth, mask = counts(place.predictions, point.origin.labels)
    plain = replace(point, slopes=(1.0,) * len(point.cuts), biases=(0.0,) * len(point.cuts))
    scores = place.scores if place.origin.kind == "frequency" else probabilities(plain, place.scores)
    return {
        name: expected_calibration_error(p[mask], truth[mask], np.ones((1, mask.sum())), equal_mass=True).item()
        for name, p in (("uncalibrated", scores), ("calibrated", probabilities(point, place.scores)))
    }


def card_page(point: OperatingPoint, card: Mapping[str, Any]) -> Iterator[str | Table]:
    """The card as texts and tables, for a page and for a terminal."""
    target = Target(point.target, point.at)
    yield f"# Operating point: {_aim(target)}"
    yield f"Fitted on {card['n']} studies of {card['n_patients']} patients of {point.origin.dataset}."
    yield from (f"Caveat: {caveat}." for caveat in card["caveats"])
    kept = {"sensitivity": "specificity", "specificity": "sensitivity"}.get(target.name)
    unmet = [x for x, row in card["tuning"]["labels"].items() if kept and not row[kept]["low"] >= (target.at or 0)]
    if kept and unmet:
        of = "without" if kept == "specificity" else "with"
        yield (
            f"The {kept} is met where the lower bound of its interval is {target.at} or more. Not met: "
            f"{', '.join(unmet)}: it would take {target.needed()} patients {of} the label and no error among them."
        )
    if point.rare:
        yield f"Fewer than {point.min_positives} positives, one shared cut: {', '.join(point.rare)}."
    yield _label_table(f"Where it was fitted ({point.origin.dataset})", card["tuning"], {}, point)
    yield _figure_table("Cross-validated where it was fitted", card["tuning"], ("own", "cut", "apparent gain", "gain"))
    for name, place in card["places"].items():
        yield _label_table(f"Transport to {name}: aimed (where fitted) against attained", place, card["tuning"], point)
        aimed = place | {"aimed": card["tuning"]["cut"]}
        yield _figure_table(f"{name}, {place['n']} studies", aimed, ("own", "aimed", "cut", "coherent"))
        errors, lacking = place["calibration_error"], ", ".join(place["metadata_missing"]) or "nothing"
        yield (
            f"Calibration error {errors['uncalibrated']:.3f} of the scores, {errors['calibrated']:.3f} calibrated. The "
            f"coherent sets differ in {place['changed_by_coherent']:.1%} of studies. Missing metadata: {lacking}."
        )
        if place["convention"] != point.origin.convention:
            yield f"Labels of {name} follow another convention, {place['convention']}: what is attained holds that."
    yield _READING.format(twins=" or ".join(_TWINS))


def _aim(target: Target) -> str:
    kept = {"sensitivity": f"at specificity {target.at}", "specificity": f"at sensitivity {target.at}"}
    return f"{target.name} {kept.get(target.name, '' if target.at is None else f'at {target.at}')}".strip()


def _label_table(title: str, found: Mapping[str, Any], aimed: Mapping[str, Any], point: OperatingPoint) -> Table:
    """Sensitivity and specificity of each label, beside those aimed at."""
    n = dict(zip(point.origin.labels, zip(point.positives, point.negatives, strict=True), strict=True))
    rows: list[TableRow] = []
    for label, row in found["labels"].items():
        cells = [interval_cell(Interval(**row[name]), ".2f") for name in ("sensitivity", "specificity")]
        before = [f"{aimed['labels'].get(label, row)[k]['value']:.2f}" for k in row] if aimed else map(str, n[label])
        rows.append((label, *before, *cells))
    first = ("sens.", "spec.") if aimed else ("pos.", "neg.")
    return Table(title, ("label", *first, "sensitivity", "specificity"), rows)


def _figure_table(title: str, found: Mapping[str, Any], columns: Sequence[str]) -> Table:
    skill = f"skill above {_TWINS[0]}"
    rows: list[TableRow] = []
    for name, shown in _FIGURES.items():
        cells = [interval_cell(Interval(**found[column][name]), ".2f") for column in (*columns, skill)]
        rows.append((shown, *cells))
    return Table(title, ("figure", *columns, "skill"), rows)
