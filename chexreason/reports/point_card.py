"""The card of an operating point: what it attains where it was fitted, elsewhere, and without the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from chexreason.reports.study_tables import TWIN
from chexreason.reports.tables import Table, TableRow, interval_cell
from chexreason.statistics import decisions
from chexreason.statistics.bootstrap import Interval, difference, intervals, seed_mean
from chexreason.statistics.cuts import Rule, Target, attained, cross_fitted
from chexreason.statistics.few_labels import few_label_gain
from chexreason.statistics.metrics import BoolArray, FloatArray
from chexreason.statistics.operating_point import OperatingPoint, ScoreOrigin, apply, probabilities
from chexreason.statistics.predictions import counts
from chexreason.statistics.ranking import expected_calibration_error, ranking_replicates
from chexreason.traces.verify import unmentioned
from chexreason.types import Prediction

_FIGURES = {
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "jaccard": "Jaccard",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "calls": "labels a film",
    "false_alarms": "false alarms",  # per 100 films
}
_TWINS = TWIN, "metadata alone"
_READING = (
    "Intervals are 95 %: over patients and with the cuts as fitted, of a label's share by Wilson's rule. `cut` is "
    "cross-validated by patient where the cuts were fitted; `apparent` is of the very studies that fitted them. "
    "`skill` is the cut minus the same rule on permuted scores, which know no film. False alarms are per 100 films. "
    "Averages are over the labels that a set judges, also what is aimed at."
)


@dataclass(frozen=True)
class Judged:
    """Scores [N, L] of one data set with answers, ``facts`` (metadata, reasoning ``think``) and origin, one order."""

    scores: FloatArray
    predictions: Sequence[Prediction]
    origin: ScoreOrigin
    facts: Sequence[Mapping[str, object]]
    sha256: str = ""
    adapters: tuple[str, ...] = ()

    def of(self, rows: Sequence[int]) -> Judged:
        """Those of some rows alone."""
        some, facts = [self.predictions[i] for i in rows], [self.facts[i] for i in rows]
        return replace(self, scores=self.scores[list(rows)], predictions=some, facts=facts)


def point_card(
    point: OperatingPoint,
    rule: Rule,
    tuning: Judged,
    places: Mapping[str, Judged],
    *,
    few_labels: Sequence[int] = (),
    consecutive: bool = False,
    n_permutations: int = 30,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """What the point attains on the studies it was fitted on and in ``places``: figures of own answers, cut and twins.

    ``rule`` is that which fitted it. Of places that are not its home the card also says what ``few_labels`` numbers of
    labelled patients gain there (``few_label_gain``). Raises ValueError where the point may not be applied to a place
    (see ``apply``).
    """
    labels, rows = point.origin.labels, tuning.predictions
    _, truth, mask = counts(rows, labels)
    patients, apparent = [p.patient_id for p in rows], tuning.scores >= np.array(point.cuts)
    many = {"n_resamples": n_resamples, "seed": seed}

    def crossed(scores: FloatArray, n_repeats: int = 10) -> BoolArray:
        return cross_fitted(rule, scores, truth, mask, patients, n_repeats=n_repeats, seed=seed)

    named: dict[str, Iterable[BoolArray]] = {"cut": (honest := crossed(tuning.scores)), "apparent": [apparent]}
    orders = decisions.permuted(patients, n_permutations, seed)
    named[_TWINS[0]] = [crossed(tuning.scores[order], 1)[0] for order in orders]
    named[_TWINS[1]] = crossed(decisions.metadata_scores(rows, tuning.facts, [], labels)[0])
    card: dict[str, Any] = {"n": len(rows), "n_patients": len({*patients}), "caveats": list(point.caveats)}
    card |= {"home": point.origin.dataset, "target": str(Target(point.target, point.at))}
    card["tuning"] = {"labels": _by_label(apparent, rows, labels)} | _figures(rows, named, labels, rows, **many)
    card["places"] = {
        name: {
            **_place(point, rule, tuning, place, n_permutations, many),
            "aimed": _figures(rows, {"cut": honest}, labels, place.predictions, **many)["cut"],
        }
        for name, place in places.items()
    }
    for name, place in places.items() if few_labels else ():
        if name != point.origin.dataset:
            card["places"][name]["few_labels"] = _few_labels(point, rule, place, few_labels, consecutive, seed)
    return card


def _few_labels(
    point: OperatingPoint, rule: Rule, place: Judged, n_labelled: Sequence[int], consecutive: bool, seed: int
) -> dict[str, Any]:
    """What labelled patients of a place gain there, by way and number."""
    own, truth, mask = counts(place.predictions, point.origin.labels)
    fitted, patients = (np.array(point.slopes), np.array(point.biases)), [p.patient_id for p in place.predictions]
    gains = few_label_gain(
        rule, np.array(point.cuts), fitted, place.scores, own, truth, mask, patients, n_labelled,
        consecutive=consecutive, strength=point.min_positives, seed=seed,
    )  # fmt: skip
    return {way: {str(n): asdict(gain) for n, gain in by_n.items()} for way, by_n in gains.items()}


def _place(
    point: OperatingPoint, rule: Rule, tuning: Judged, place: Judged, n_permutations: int, many: dict[str, int]
) -> dict[str, Any]:
    """What the point attains elsewhere."""
    labels, rows, there = point.origin.labels, tuning.predictions, place.predictions
    cut = apply(point, place.scores, [p.study_id for p in there], place.origin, any_convention=True)
    settled = decisions.coherent(place.scores - np.array(point.cuts), labels)
    named: dict[str, Iterable[BoolArray]] = {"cut": [cut], "coherent": [settled], "all labels": [np.ones_like(cut)]}
    own, away, missing = decisions.metadata_scores(rows, tuning.facts, place.facts, labels)
    home, n = (tuning.scores, rows), n_permutations
    named[_TWINS[0]] = decisions.image_blind(rule, home, (place.scores, there), labels, n=n, seed=many["seed"])
    named[_TWINS[1]] = decisions.image_blind(rule, (own, rows), (away, there), labels, n=0)
    ranked = ranking_replicates(place.scores, there, labels, kind=point.origin.kind, **many)
    return {
        "n": len(there),
        "scores_sha256": place.sha256,
        "labels": _by_label(cut, there, labels),
        "auroc": asdict(intervals(ranked)["macro_auroc"]),
        "calibration_error": _calibration_errors(point, place),
        "changed_by_coherent": float((settled != cut).any(axis=1).mean()),
        "unmentioned": _unmentioned(cut, place, labels),
        "metadata_missing": list(missing),
        "convention": place.origin.convention,
        **_figures(there, named, labels, there, **many),
    }


def remedy_row(place: Mapping[str, Any]) -> dict[str, float]:
    """Macro-F1 of an arm at one of a card's ``places`` by own answers, cut, image-blind cut and all labels; AUROC."""
    names = ("own", "cut", "permuted scores", "all labels")
    return {name: place[name]["macro_f1"]["value"] for name in names} | {"auroc": place["auroc"]["value"]}


def _figures(
    rows: Sequence[Prediction],
    named: Mapping[str, Iterable[BoolArray]],
    labels: Sequence[str],
    judged_in: Sequence[Prediction],
    **many: int,
) -> dict[str, Any]:
    """Figures with intervals of own answers and of ``named`` labels, means of repeats, and of the cut against them.

    Averages are over the labels that are judged in ``judged_in``.
    """
    over = [x for x, judged in zip(labels, counts(judged_in, labels)[2].T, strict=True) if judged.any()]
    answers = {kind: [decisions.decided(rows, one, labels) for one in repeats] for kind, repeats in named.items()}
    samples = {
        kind: seed_mean([decisions.decision_replicates(one, over, **many) for one in repeats])
        for kind, repeats in {"own": [list(rows)], **answers}.items()
    }
    pairs = {"gain": ("own", "cut"), "apparent gain": ("own", "apparent")}
    pairs |= {f"skill above {twin}": (twin, "cut") for twin in _TWINS}
    samples |= {k: difference(samples[a], samples[b]) for k, (a, b) in pairs.items() if {a, b} <= {*samples}}
    return {kind: {k: asdict(v) for k, v in intervals(s).items() if k in _FIGURES} for kind, s in samples.items()}


def _by_label(named: BoolArray, rows: Sequence[Prediction], labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    _, truth, mask = counts(rows, labels)
    found = attained(named, truth, mask, [p.patient_id for p in rows])
    return {x: {name: asdict(found[name][i]) for name in found} for i, x in enumerate(labels) if mask[:, i].any()}


def _unmentioned(named: BoolArray, place: Judged, labels: Sequence[str]) -> float | None:
    """The share of named labels that the reasoning does not mention; None where there is no reasoning."""
    said = [str(fact.get("think") or "") for fact in place.facts]
    lost = [unmentioned(text, np.array(labels)[row]) for text, row in zip(said, named, strict=True) if text]
    n = sum(int(row.sum()) for text, row in zip(said, named, strict=True) if text)
    return sum(map(len, lost)) / n if n else None


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
    target, home = Target(point.target, point.at), point.origin.dataset
    kept = target.kept
    yield f"# Operating point: {card['target']}"
    yield f"Fitted on {card['n']} studies of {card['n_patients']} patients of {home}."
    yield from (f"Caveat: {caveat}." for caveat in card["caveats"])
    if kept:
        shown = {x: row[kept] for x, row in card["tuning"]["labels"].items()}
        took = {x: target.needed(row["value"]) for x, row in shown.items() if not row["low"] >= (target.at or 0)}
        of = f"patients {'without' if kept == 'specificity' else 'with'} the label"
        told = [f"{x} ({f'it would take {n} {of}' if n else 'at no number of patients'})" for x, n in took.items()]
        yield (
            f"The {kept} is met where the lower bound of its interval is {target.at} or more. Not met: "
            f"{', '.join(told) or 'none'}."
        )
    if point.rare:
        yield f"Fewer than {point.min_positives} positives, one shared cut: {', '.join(point.rare)}."
    yield _label_table(f"Where it was fitted ({home})", card["tuning"], {}, point)
    yield _figure_table(f"{home}, cross-validated", card["tuning"], ("own", "apparent gain", "gain"))
    for name, place in card["places"].items():
        yield _label_table(f"Transport to {name}: aimed (where fitted) against attained", place, card["tuning"], point)
        yield _figure_table(f"{name}, {place['n']} studies", place, ("own", "aimed", "coherent"))
        errors, auroc = place["calibration_error"], interval_cell(Interval(**place["auroc"]))
        unsaid = "" if place["unmentioned"] is None else f"The reasoning does not mention {place['unmentioned']:.0%}. "
        yield (
            f"Calibration error {errors['uncalibrated']:.3f} of the scores, {errors['calibrated']:.3f} calibrated; "
            f"AUROC {auroc}. Coherent sets differ in {place['changed_by_coherent']:.1%} of studies. {unsaid}Metadata "
            f"alone lack {', '.join(place['metadata_missing']) or 'nothing'}."
        )
        if few := place.get("few_labels"):
            yield _few_table(name, few)
        if place["convention"] != point.origin.convention:
            yield f"Labels of {name} follow another convention, {place['convention']}: what is attained holds that."
    yield _READING


def _few_table(name: str, gains: Mapping[str, Mapping[str, Any]]) -> Table:
    """The gain in macro-F1 over own answers by the number of labelled patients."""
    rows: list[TableRow] = [
        (n, *(interval_cell(Interval(**by_n[n]), "+.3f") for by_n in gains.values()))
        for n in next(iter(gains.values()))
    ]
    note = "Patients are drawn 200 times, and the others are scored: 95 % of the draws lie in the brackets."
    return Table(f"Gain over own answers at {name} with n labelled patients there", ("n", *gains), rows, notes=(note,))


def _label_table(title: str, found: Mapping[str, Any], aimed: Mapping[str, Any], point: OperatingPoint) -> Table:
    """Sensitivity and specificity of each label, beside those aimed at, or the numbers of studies."""
    n = dict(zip(point.origin.labels, zip(point.positives, point.negatives, strict=True), strict=True))
    rows: list[TableRow] = []
    for label, row in found["labels"].items():
        cells = [interval_cell(Interval(**row[name]), ".2f") for name in ("sensitivity", "specificity")]
        before = [f"{aimed['labels'].get(label, row)[k]['value']:.2f}" for k in row] if aimed else map(str, n[label])
        rows.append((label, *before, *cells))
    first = ("sens.", "spec.") if aimed else ("pos.", "neg.")
    return Table(title, ("label", *first, "sensitivity", "specificity"), rows)


def _figure_table(title: str, found: Mapping[str, Any], columns: Sequence[str]) -> Table:
    """The figures of ``columns`` as they are, of the cut and its skill with intervals."""
    rows: list[TableRow] = []
    for name, shown in _FIGURES.items():
        cells = [interval_cell(Interval(**found[x][name]), ".2f") for x in ("cut", f"skill above {_TWINS[0]}")]
        rows.append((shown, *(f"{found[column][name]['value']:.2f}" for column in columns), *cells))
    return Table(title, ("figure", *columns, "cut", "skill"), rows)
