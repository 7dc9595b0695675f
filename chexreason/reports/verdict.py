"""The study's outcome in plain words, no stronger than its intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from chexreason.reports.own_words import vocabulary_sentence
from chexreason.reports.study_tables import TWIN, arm_title, best_trivial, data_sets, pair_of
from chexreason.statistics.bootstrap import Interval

_EQUAL = 1e-9  # scores that differ by rounding alone
_READABLE = 0.05  # rates above this are worth a sentence
_UNREAD = {  # answers that count as empty
    "fail_rate": "Answers that break the format and count as empty",
    "no_label_rate": "Answers that keep the format, name no known label and count as empty",
}


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """Sentences on trivial rows, the changes between neighbouring arms, transfer, fail rates and reward.

    ``figures`` is what ``payload.study_figures`` returns, after ``files.finite``. Changes are over the labels that all
    data sets judge.
    """
    paired = figures["common"]["paired"]
    steps = [key for a, b in pairwise(figures["arms"]) if paired.get(key := f"{a}__{b}")]
    on = compared_on(figures["common"]["labels"], figures["sets"]) if len(figures["arms"]) > 1 else []
    sentences = [*_below_trivial(figures), *on, *(_change(pair_of(key, figures), paired[key]) for key in steps)]
    if steps:
        sentences += _transfer(steps[-1], figures)
    return [*sentences, *_points(figures), *_vocabulary(figures), *_unreadable(figures), *_reward(figures)]


def compared_on(labels: Sequence[str], sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence on the ``labels`` over which the macro-F1 of ``sets`` is compared, where some set has more."""
    names = _listed(list(sets))
    if not labels:
        return [f"No label is judged by all of {names}: changes between them are not compared."]
    if all(len(facts["labels"]) == len(labels) for facts in sets.values()):
        return []
    n = f"{len(labels)} label{'' if len(labels) == 1 else 's'}"
    return [f"Changes are of the macro-F1 over the {n} that all of {names} judge: {', '.join(labels)}."]


def _direction(interval: Mapping[str, float | None]) -> int:
    """1 or -1 when the whole interval lies on one side of zero; 0 when it includes it or is undefined."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return 0
    return (low > 0) - (high < 0)


def transfer_sentence(before: str, after: str, changes: Mapping[str, Interval], below: Sequence[str] = ()) -> str:
    """A step's change in macro-F1 on each data set in words, by the interval: it gains, loses or neither.

    Before it come those of the sets where ``after`` is ``below`` answering all labels.
    """
    clauses = [_moved(change, f"at {name}") for name, change in changes.items()]
    beaten = [f"at {name}" for name in changes if name in below]
    first = f"{after} is below answering all labels {_listed(beaten)}. " if beaten else ""
    return f"{first}Compared with {before}, {after} {_listed(clauses)}."


def _moved(change: Interval, place: str) -> str:
    if change.low > 0:
        return f"gains {change.value:.3f} [{change.low:.3f}, {change.high:.3f}] {place}"
    if change.high < 0:
        return f"loses {-change.value:.3f} [{-change.high:.3f}, {-change.low:.3f}] {place}"
    if change.low != change.low:  # NaN: nothing to resample
        return f"changes by {change.value:+.3f}, of unknown precision, {place}"
    return f"shows no clear difference ({change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]) {place}"


def _change(arms: tuple[str, str], sets: Mapping[str, Any]) -> str:
    """One sentence on a step between ``arms``, data sets with the same outcome under one verb."""
    before, after = map(arm_title, arms)
    outcomes: dict[str, list[str]] = {}
    for name, statistics in sets.items():
        change = statistics["macro_f1"]
        outcomes.setdefault(_verb(change), []).append(f"at {name} ({_sized(change)})")
    clauses = [f"{verb} {_listed(places)}" for verb, places in outcomes.items()]
    return f"Compared with {before}, {after} {', but '.join(clauses)}."


def _verb(change: Mapping[str, float | None]) -> str:
    if change["low"] is None:
        return "has a macro-F1 change of unknown precision"
    return {1: "gains macro-F1", -1: "loses macro-F1", 0: "shows no clear change"}[_direction(change)]


def _sized(change: Mapping[str, float | None]) -> str:
    bounds = "" if change["low"] is None else f" [{change['low']:+.3f}, {change['high']:+.3f}]"
    relative = "" if change["relative"] is None else f", {change['relative']:+.0%}"
    return f"{change['value']:+.3f}{bounds}{relative}"


def _transfer(key: str, figures: Mapping[str, Any]) -> list[str]:
    """Whether the last step gains on the first set and loses on the others, as the paper reports of GRPO.

    Nothing of the kind is said of an arm that an answer without an image beats on one of these sets, and where a change
    comes with a change of vocabulary, that is said too.
    """
    sets, after = figures["common"]["paired"][key], pair_of(key, figures)[1]
    (place, *away), arm = list(sets), arm_title(after)
    if not away:
        return []
    if below := _beaten(figures, after, sets):
        return [
            f"{arm} is below the best trivial answer at {_listed(below)}: its changes there are no evidence that it "
            "reads films better or worse, and nothing is said about transfer."
        ]
    at_home = _direction(sets[place]["macro_f1"])
    told = [name for name in sets if "vocabulary" in figures["paired"][key][name]]
    but = f", but part of the change at {_listed(told)} is vocabulary, as is said below." if told else "."
    lost, gained = ([name for name in away if _direction(sets[name]["macro_f1"]) == sign] for sign in (-1, 1))
    if at_home > 0 and lost:
        where = "elsewhere" if lost == away else f"at {_listed(lost)} only"
        return [f"That is the pattern the paper reports: {arm} gains at {place} and loses {where}{but}"]
    if at_home > 0 and gained:
        where = "" if gained == away else f" to {_listed(gained)} only"
        return [f"Unlike in the paper, the gain of {arm} at {place} carries over{where}{but}"]
    if at_home > 0:
        return [f"The gain of {arm} at {place} does not clearly carry over, nor is a loss elsewhere established."]
    return [f"The gain of {arm} at {place} that the paper reports is not established here."]


def _beaten(figures: Mapping[str, Any], arm: str, sets: Iterable[str]) -> list[str]:
    """Those of ``sets`` where a trivial answer beats ``arm`` in macro-F1, over the set's labels or the common ones."""
    bases = (figures, figures["common"])
    below = {n for f in bases for n in sets if f["arms"][arm][n]["macro_f1"]["value"] < best_trivial(f, n)[0] - _EQUAL}
    return [n for n in sets if n in below]


def _below_trivial(figures: Mapping[str, Any]) -> list[str]:
    """One sentence a data set on how the arms compare with its best trivial row."""
    sentences = []
    for name in data_sets(figures):
        floor, row = best_trivial(figures, name)
        groups: dict[str, list[str]] = {"below": [], "not clearly above": []}
        for arm, score in ((arm, sets[name]["macro_f1"]) for arm, sets in figures["arms"].items() if name in sets):
            if score["value"] < floor:
                groups["below"].append(f"{arm_title(arm)} ({score['value']:.3f})")
            elif score["low"] is None or score["low"] <= floor:
                groups["not clearly above"].append(f"{arm_title(arm)} ({score['value']:.3f})")
        found = [f"{_listed(arms)} {'is' if len(arms) == 1 else 'are'} {how}" for how, arms in groups.items() if arms]
        outcome = " and ".join(found) or "every arm is clearly above"
        sentences.append(f"At {name}, {outcome} the best trivial answer, {row} ({floor:.3f}).")
    return sentences


def _points(figures: Mapping[str, Any]) -> list[str]:
    """What each arm attains at its operating point beyond the same rule without the image, one sentence a data set."""
    sentences = []
    for name in data_sets(figures):
        clauses = []
        for arm, card in figures.get("points", {}).items():
            if (place := card["places"].get(name)) is None:
                continue
            skill, auroc, cut = place[f"skill above {TWIN}"]["macro_f1"], place["auroc"], place["cut"]["macro_f1"]
            bounds = f"[{skill['low']:+.3f}, {skill['high']:+.3f}]"
            clause = f"{arm_title(arm)} {cut['value']:.3f}, {skill['value']:+.3f} {bounds}"
            clause += " beyond its twin" if _direction(skill) > 0 else ", which is not above its twin"
            if _direction({k: v and v - 0.5 for k, v in auroc.items()}) <= 0:
                clause += f"; it ranks no better than chance (AUROC {auroc['value']:.3f})"
            if cut["value"] < (constant := place["all labels"]["macro_f1"]["value"]):
                clause += f"; answering all labels scores as well ({constant:.3f})"
            clauses.append(clause)
        if clauses:
            sentences.append(f"At {name}, macro-F1 at cuts of home validation films is: {'. '.join(clauses)}.")
    twin = "Its twin is the same rule on scores of other patients: what a cut buys without the film."
    return [*sentences, twin] if sentences else []


def _vocabulary(figures: Mapping[str, Any]) -> list[str]:
    """Changes that come with answers in words that are no labels, one sentence a step and data set."""
    return [
        vocabulary_sentence(arm_title(before), arm_title(after), name, change["vocabulary"])
        for (before, after), sets in ((pair_of(key, figures), sets) for key, sets in figures["paired"].items())
        for name, change in sets.items()
        if "vocabulary" in change
    ]


def _unreadable(figures: Mapping[str, Any]) -> list[str]:
    sentences = []
    for rate, title in _UNREAD.items():
        found = [
            f"{scores[rate]['value']:.0%} of {arm_title(arm)} at {name}"
            for arm, sets in figures["arms"].items()
            for name, scores in sets.items()
            if (scores.get(rate, {}).get("value") or 0.0) > _READABLE
        ]
        sentences += [f"{title}: {_listed(found)}."] if found else []
    return sentences


def _reward(figures: Mapping[str, Any]) -> list[str]:
    reward = figures.get("grpo", {}).get("reward")
    if not reward or reward["difference"]["low"] is None:
        return []
    difference, patients = reward["difference"], reward["patients"]
    verb = {1: "rises", -1: "falls", 0: "does not clearly move"}[_direction(difference)]
    return [
        f"The training reward {verb} from {reward['first_fifth']['value']:.3g} in the first fifth of the steps to "
        f"{reward['last_fifth']['value']:.3g} in the last "
        f"({difference['value']:+.3g} [{difference['low']:+.3g}, {difference['high']:+.3g}]; "
        f"{patients['both']} of its {patients['last_fifth']} patients were in the first)."
    ]


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
