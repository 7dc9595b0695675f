"""Warnings about prepared sets: rules over the audit's figures, each with the figures that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chexreason.audit.facts import ADULT, DEVICES, AuditFigures
from chexreason.data.leakage import EVALUATION, LEAK_KINDS, SUSPECTED, TRAIN

FEW = 5  # positives below which a label's F1 hangs on single patients
RATIO = 3.0  # prevalence in evaluation against training
PAPER_SHARE = 0.05  # of each label in a training sample: what the paper's sampler aims at
FAIR = 0.4  # Cohen's kappa up to which agreement is called fair at best (Landis and Koch 1977)
COMPARED = 20  # images below which kappa says little
YEARS = 20  # between median ages
PATIENTS = 100  # in an evaluation split
VIEWS = 0.25  # between the shares of a view
LEVELS = ("stop", "warn", "note")

Worry = tuple[str, str]  # how grave, and one sentence: "stop" means that nothing can be concluded


def worries(figures: AuditFigures) -> list[dict[str, str]]:
    """``level`` and ``text`` of every warning about the audit ``figures``, the gravest first."""

    def of_sets(*rules: Callable[[AuditFigures, str, AuditFigures], Iterator[Worry]]) -> list[Worry]:
        return [w for rule in rules for name, own in figures["sets"].items() for w in rule(figures, name, own)]

    found = [
        *_leaks(figures),
        *of_sets(_own_patients, _few_positives, _unscored, _prevalence, _never_judged, _ages, _views),
        *_disagreement(figures),
        *of_sets(_consistency, _policy, _rare_in_training),
    ]
    return [{"level": level, "text": text} for level, text in sorted(found, key=lambda worry: LEVELS.index(worry[0]))]


def far_apart(base: AuditFigures, there: AuditFigures) -> bool:
    """True when two prevalences of at least ``FEW`` positives each differ more than ``RATIO``-fold."""
    enough = min(base["positive"], there["positive"]) >= FEW
    return enough and not 1 / RATIO <= there["ratio"] <= RATIO


def _leaks(figures: AuditFigures) -> Iterator[Worry]:
    if figures["leaks"] is None:
        yield "warn", "The leakage guard was not run."
    for leak in figures["leaks"] or ():
        between = f"{leak['one']} ({leak['sides'][0]}) and {leak['other']} ({leak['sides'][1]})"
        kind, note = leak["kind"], ", accepted by data.allow_overlap" if leak["allowed"] else ""
        said, note = ("Perhaps a leak", f": {SUSPECTED[kind]}") if kind in SUSPECTED else ("Leak", note)
        shared = f"{between} share {leak['count']:,} of {LEAK_KINDS[kind]}"
        yield "warn" if leak["allowed"] else "stop", f"{said}: {shared}{note}."
    unseen = [name for name, own in figures["sets"].items() if own["missing"]["sha256"] == own["images"]]
    if unseen:
        yield "note", f"Images of {', '.join(unseen)} were not looked at: leakage was searched by patient alone."


def _own_patients(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    if n := own.get("own_patients"):  # an earlier version did not count them
        text = f"the patient of {n:,} of {own['images']:,} films is unknown, so each counts as a patient of its own"
        yield "warn", f"{name}: {text}. Intervals and p-values are too narrow where a patient has several films."


def _few_positives(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    for split in _scored_splits(own):
        part = own["splits"][split]
        counts = {k: v["positive"] for k, v in part["labels"].items() if v["judged"] and v["positive"] < FEW}
        if counts:
            named = ", ".join(f"{label} ({n})" for label, n in counts.items())
            text = f"{name}, {split}: fewer than {FEW} positive images of {named}. Their F1 hangs on single patients."
            yield "warn", text
        if part["patients"] < PATIENTS:
            yield "note", f"{name}, {split}: only {part['patients']} patients; expect wide intervals."


def _unscored(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    for split, part in own["splits"].items():
        if n := part["unjudged"]:
            text = f"{n:,} of {part['images']:,} images have no judged label: no score and no training counts them"
            yield "warn", f"{name}, {split}: {text}."
        if n := part["only_zeros"]:
            named = ", ".join(part["zeros_at"]) or "identifiers withheld"
            text = f"{n:,} of {part['images']:,} images ({named}) are judged on all labels and positive in none"
            yield "warn", f"{name}, {split}: {text}, No Finding included. Every valid answer to them is wrong."


def _prevalence(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    shift = figures["shift"]
    there = shift["evaluation"].get(name, {"labels": {}})
    far = [
        f"{label} {shift['labels'][label]['prevalence']:.1%} → {new['prevalence']:.1%}"
        for label, new in there["labels"].items()
        if far_apart(shift["labels"][label], new)
    ]
    if far:
        where = f"{shift['home']}, {' + '.join(shift['splits'])}, and {name}, {there['split']}"
        yield "warn", f"Prevalence differs more than {RATIO:g}-fold between {where}: {', '.join(far)}."


def _never_judged(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    judged, n = _judged(own), len(own["labels"])
    taught = _judged(figures["sets"][figures["home"]])
    never = [label for label in own["labels"] if label not in judged]
    if never and _scored_splits(own):
        yield "warn", f"{name} is scored on {n - len(never)} of {n} labels; masked there: {', '.join(never)}."
    unseen = [label for label in judged if label not in taught]
    if unseen and _scored_splits(own):
        yield "warn", f"{name} scores labels that {figures['home']} never teaches: {', '.join(unseen)}."


def _ages(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    home, ages = figures["sets"][figures["home"]]["ages"], own["ages"]
    if not ages["known"] and _scored_splits(own):
        yield "note", f"{name}: no age is known; the data do not say whether its patients are children."
    if ages["known"] and home["known"] and abs(ages["median"] - home["median"]) > YEARS:
        medians = f"{ages['median']:.0f} years at {name}, {home['median']:.0f} at {figures['home']}"
        under = f"under {ADULT}: {ages['minors']:.0%} and {home['minors']:.0%}"
        yield "warn", f"Another age group: median {medians} ({under})."


def _views(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    if not _scored_splits(own):
        return
    home = figures["sets"][figures["home"]]
    shares = {
        view: (own["views"].get(view, 0) / own["images"], home["views"].get(view, 0) / home["images"])
        for view in {**own["views"], **home["views"]}
        if view != "unknown"
    }
    other = [f"{view} {a:.0%} ({b:.0%})" for view, (a, b) in shares.items() if abs(a - b) >= VIEWS]
    if own["views"].get("unknown") == own["images"]:
        yield "note", f"{name}: no view is known."
    elif other:
        yield "warn", f"Another mix of views at {name} (in brackets: {figures['home']}): {', '.join(other)}."


def _disagreement(figures: AuditFigures) -> Iterator[Worry]:
    for pair in figures["agreement"]:
        between = f"{pair['first']} and {pair['second']}"
        if not pair["images"]:
            yield "warn", f"{between} share no image: their labels cannot be compared."
        poor = []
        for label, one in pair["labels"].items():
            if one["n"] >= COMPARED and one["kappa"] is not None and one["kappa"] <= FAIR:
                bounds = f" [{one['low']:.2f}, {one['high']:.2f}]" if one["low"] is not None else ""
                poor.append(f"{label} {one['kappa']:.2f}{bounds} over {one['n']:,} images")
        if poor:
            yield "warn", f"{between} agree poorly (kappa at most {FAIR:g}) on {'; '.join(poor)}."


def _consistency(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    files = own["formats"]
    if n := own["contradictions"]:
        yield "warn", f"{name}: {n:,} images are positive in No Finding and in a disease ({DEVICES} aside)."
    if n := own["repeated_images"]:
        yield "warn", f"{name}: {n:,} image files repeat an earlier one byte by byte."
    if n := own["blank"]:
        named = ", ".join(own["blank_at"]) or "identifiers withheld"
        yield "warn", f"{name}: {n:,} films are blank, black or of one grey ({named}): they show nothing."
    if n := own["transparent"]:
        yield "warn", f"{name}: {n:,} image files have transparency, which is left out: look at them."
    if n := files["unreadable"]:
        yield "warn", f"{name}: {n} of {files['drawn']} image files drawn could not be opened."


def _policy(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    labels, policy = [own["labels"][label] for label in _judged(own)], own["policy"]
    blank, uncertain = (sum(label["raw"][mark] for label in labels) for mark in ("blank", "uncertain"))
    negative = sum(label["negative"] for label in labels)
    if blank and policy["blank"] == "negative":
        text = f"{blank / negative:.0%} of the negatives are blanks that policy '{policy['name']}' reads as absent"
        yield "note" if blank < negative / 2 else "warn", f"{name}: {text}."
    alone = [k for k in _judged(own) if own["labels"][k]["raw"]["blank"] and not own["labels"][k]["negative"]]
    if alone and policy["blank"] == "masked":
        text = f"no negative image of {', '.join(alone)}: policy '{policy['name']}' leaves blanks out"
        yield "warn", f"{name}: {text}. If a blank means absent, say positives_only."
    if uncertain:
        text = f"{uncertain:,} marks are uncertain; policy '{policy['name']}' takes them as {policy['uncertain']}"
        yield "note", f"{name}: {text}."


def _rare_in_training(figures: AuditFigures, name: str, own: AuditFigures) -> Iterator[Worry]:
    for split in (split for split in own["splits"] if split in TRAIN and name == figures["home"]):
        part = own["splits"][split]
        rare = {k: v["prevalence"] for k, v in part["labels"].items() if v["judged"]}
        named = ", ".join(f"{label} {share:.1%}" for label, share in rare.items() if share < PAPER_SHARE)
        if named:
            yield "note", f"{name}, {split}: below the paper's {PAPER_SHARE:.0%} share: {named}."
        if n := part["without_positive"]:
            text = f"{n:,} images ({n / part['images']:.0%}) have no positive label"
            yield "note", f"{name}, {split}: {text}; training leaves them out."


def _scored_splits(own: AuditFigures) -> list[str]:
    return [split for split in EVALUATION if split in own["splits"]]


def _judged(own: AuditFigures) -> list[str]:
    return [label for label, counts in own["labels"].items() if counts["judged"]]
