"""Warnings about prepared sets: rules over the audit's figures, each with the figures that it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from chexreason.audit.facts import ADULT, DEVICES, AuditFigures
from chexreason.data.leakage import EVALUATION, KINDS, TRAIN

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
    found = [{"level": level, "text": text} for rule in _RULES for level, text in rule(figures)]
    return sorted(found, key=lambda worry: LEVELS.index(worry["level"]))


def _leaks(figures: AuditFigures) -> Iterator[Worry]:
    if figures["leaks"] is None:
        yield "warn", "The leakage guard was not run."
    for leak in figures["leaks"] or ():
        between = f"{leak['one']} ({leak['sides'][0]}) and {leak['other']} ({leak['sides'][1]})"
        accepted = ", accepted by data.allow_overlap" if leak["allowed"] else ""
        level = "warn" if leak["allowed"] else "stop"
        yield level, f"Leak: {between} share {leak['count']:,} of {KINDS[leak['kind']]}{accepted}."
    unseen = [name for name, s in figures["sets"].items() if s["missing"]["sha256"] == s["images"]]
    if unseen:
        yield "note", f"Images of {', '.join(unseen)} were not looked at: leakage was searched by patient alone."


def _few_positives(figures: AuditFigures) -> Iterator[Worry]:
    splits = [
        (name, split) for name, figure in figures["sets"].items() for split in EVALUATION if split in figure["splits"]
    ]
    for name, split in splits:
        part = figures["sets"][name]["splits"][split]
        counts = {k: v["positive"] for k, v in part["labels"].items() if v["judged"] and v["positive"] < FEW}
        if counts:
            named = ", ".join(f"{label} ({n})" for label, n in counts.items())
            text = f"{name}, {split}: fewer than {FEW} positive images of {named}. Their F1 hangs on single patients."
            yield "warn", text
        if part["patients"] < PATIENTS:
            yield "note", f"{name}, {split}: only {part['patients']} patients; expect wide intervals."


def _rare_in_training(figures: AuditFigures) -> Iterator[Worry]:
    for split, part in figures["sets"][figures["home"]]["splits"].items():
        if split in TRAIN:
            rare = {k: v["prevalence"] for k, v in part["labels"].items() if v["judged"]}
            named = ", ".join(f"{label} {share:.1%}" for label, share in rare.items() if share < PAPER_SHARE)
            if named:
                yield "note", f"{figures['home']}, {split}: below the paper's {PAPER_SHARE:.0%} share: {named}."
            if part["without_positive"]:
                share = part["without_positive"] / part["images"]
                text = f"{part['without_positive']:,} images ({share:.0%}) have no positive label"
                yield "note", f"{figures['home']}, {split}: {text}; training leaves them out."


def _never_judged(figures: AuditFigures) -> Iterator[Worry]:
    judged = {name: _judged(s) for name, s in figures["sets"].items()}
    at_home = judged[figures["home"]]
    for name, figure in figures["sets"].items():
        never = [label for label in figure["labels"] if label not in judged[name]]
        if never and _scored(figure):
            n = len(figure["labels"])
            yield "warn", f"{name} is scored on {n - len(never)} of {n} labels; masked there: {', '.join(never)}."
        unseen = [label for label in judged[name] if label not in at_home]
        if unseen and _scored(figure):
            yield "warn", f"{name} scores labels that {figures['home']} never teaches: {', '.join(unseen)}."


def _prevalence(figures: AuditFigures) -> Iterator[Worry]:
    shift = figures["shift"]
    for name, there in shift["evaluation"].items():
        far = [
            f"{label} {shift['labels'][label]['prevalence']:.1%} → {new['prevalence']:.1%}"
            for label, new in there["labels"].items()
            if far_apart(shift["labels"][label], new)
        ]
        if far:
            where = f"training at {shift['home']} and {name}, {there['split']}"
            yield "warn", f"Prevalence differs more than {RATIO:g}-fold between {where}: {', '.join(far)}."


def far_apart(base: AuditFigures, there: AuditFigures) -> bool:
    """True when two prevalences of at least ``FEW`` positives each differ more than ``RATIO``-fold."""
    enough = min(base["positive"], there["positive"]) >= FEW
    return enough and not 1 / RATIO <= there["ratio"] <= RATIO


def _ages(figures: AuditFigures) -> Iterator[Worry]:
    home = figures["sets"][figures["home"]]["ages"]
    for name, figure in figures["sets"].items():
        ages = figure["ages"]
        if not ages["known"] and _scored(figure):
            yield "note", f"{name}: no age is known; the data do not say whether its patients are children."
        if ages["known"] and home["known"] and abs(ages["median"] - home["median"]) > YEARS:
            medians = f"{ages['median']:.0f} years at {name}, {home['median']:.0f} at {figures['home']}"
            under = f"under {ADULT}: {ages['minors']:.0%} and {home['minors']:.0%}"
            yield "warn", f"Another age group: median {medians} ({under})."


def _views(figures: AuditFigures) -> Iterator[Worry]:
    home = figures["sets"][figures["home"]]
    for name, figure in figures["sets"].items():
        if not _scored(figure):
            continue
        shares = {
            view: (figure["views"].get(view, 0) / figure["images"], home["views"].get(view, 0) / home["images"])
            for view in {**figure["views"], **home["views"]}
            if view != "unknown"
        }
        other = [f"{view} {a:.0%} ({b:.0%})" for view, (a, b) in shares.items() if abs(a - b) >= VIEWS]
        if figure["views"].get("unknown") == figure["images"]:
            yield "note", f"{name}: no view is known."
        elif other:
            yield "warn", f"Another mix of views at {name} (in brackets: {figures['home']}): {', '.join(other)}."


def _policy(figures: AuditFigures) -> Iterator[Worry]:
    for name, figure in figures["sets"].items():
        raw = [figure["labels"][label]["raw"] for label in _judged(figure)]
        blank, uncertain = sum(r["blank"] for r in raw), sum(r["uncertain"] for r in raw)
        negative = sum(figure["labels"][label]["negative"] for label in _judged(figure))
        policy = figure["policy"]
        if blank and policy["blank"] == "negative":
            text = f"{blank / negative:.0%} of the negatives are blanks that policy '{policy['name']}' reads as absent"
            yield "note" if blank < negative / 2 else "warn", f"{name}: {text}."
        if uncertain:
            text = f"{uncertain:,} marks are uncertain; policy '{policy['name']}' takes them as {policy['uncertain']}"
            yield "note", f"{name}: {text}."


def _consistency(figures: AuditFigures) -> Iterator[Worry]:
    for name, figure in figures["sets"].items():
        if figure["contradictions"]:
            text = f"{figure['contradictions']:,} images are positive in No Finding and in a disease ({DEVICES} aside)"
            yield "warn", f"{name}: {text}."
        if figure["repeated_images"]:
            yield "warn", f"{name}: {figure['repeated_images']:,} image files repeat an earlier one byte by byte."
        pictures = figure["formats"]
        if pictures["unreadable"]:
            text = f"{pictures['unreadable']} of {pictures['drawn']} image files drawn could not be opened"
            yield "warn", f"{name}: {text}."


def _disagreement(figures: AuditFigures) -> Iterator[Worry]:
    for pair in figures["agreement"]:
        between = f"{pair['first']} and {pair['second']}"
        if not pair["images"]:
            yield "warn", f"{between} share no image: their labels cannot be compared."
        poor = [
            f"{label} {_kappa(one)}"
            for label, one in pair["labels"].items()
            if one["n"] >= COMPARED and one["kappa"] is not None and one["kappa"] <= FAIR
        ]
        if poor:
            yield "warn", f"{between} agree poorly (kappa at most {FAIR:g}) on {'; '.join(poor)}."


def _kappa(one: AuditFigures) -> str:
    bounds = f" [{one['low']:.2f}, {one['high']:.2f}]" if one["low"] is not None else ""
    return f"{one['kappa']:.2f}{bounds} over {one['n']:,} images"


def _scored(figure: AuditFigures) -> bool:
    return any(split in figure["splits"] for split in EVALUATION)


def _judged(figure: AuditFigures) -> list[str]:
    return [label for label, counts in figure["labels"].items() if counts["judged"]]


_RULES = (
    _leaks,
    _few_positives,
    _prevalence,
    _never_judged,
    _ages,
    _views,
    _disagreement,
    _consistency,
    _policy,
    _rare_in_training,
)
