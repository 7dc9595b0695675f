"""Which arms may stand in one table: those of one label policy, one state of the data and one truth for each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chexreason.labels.catalog import LABEL_SETS
from chexreason.labels.schema import LabelSet
from chexreason.statistics.predictions import datasets, evaluated_labels, on_judged
from chexreason.types import Prediction

UNRECORDED = "not recorded"
_WAY_OUT = "evaluate these arms anew on one data config, with restart=true, or leave arms out with arms=[...]"
_SHOWN = 3  # studies named in an error message
_SHORT = 8  # hex digits shown of a data hash


def set_facts(arms: Mapping[str, Sequence[Prediction]], label_set: LabelSet) -> dict[str, dict[str, Any]]:
    """Policy, data hash, scored labels and number of studies of each data set, by its name.

    ``policy`` and ``data_sha256`` are "not recorded" where the prediction files are older than these fields;
    ``label_list`` is the name of the list the scored ``labels`` are, or ""; of ``n_studies`` the first arm answered,
    ``n_judged`` have a judged label. Raises ValueError when a set was scored in two ways: one message with every
    difference and the way out.
    """
    faults: list[str] = []
    facts: dict[str, dict[str, Any]] = {}
    by_arm = {arm: datasets(predictions) for arm, predictions in arms.items()}
    for name in dict.fromkeys(name for by_set in by_arm.values() for name in by_set):
        rows = {arm: by_set[name] for arm, by_set in by_arm.items() if name in by_set}
        faults += _two_values(name, rows, "policy", "label policy")
        faults += _two_values(name, rows, "data_sha256", "manifest content")
        faults += _two_truths(name, rows)
        first = next(iter(rows.values()))
        labels = evaluated_labels(first, label_set)
        facts[name] = {
            "policy": first[0].policy or UNRECORDED,
            "data_sha256": first[0].data_sha256 or UNRECORDED,
            "labels": list(labels),
            "label_list": next((known.name for known in LABEL_SETS.values() if known.labels == labels), ""),
            "n_studies": len(first),
            "n_judged": len(on_judged(first, labels)),
        }
    if faults:
        raise ValueError("these predictions cannot stand in one table:\n  " + "\n  ".join(faults) + f"\n{_WAY_OUT}")
    return facts


def basis(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """The line below a table: label policies, sets, labels and data of ``sets`` (from ``set_facts``)."""
    by_policy: dict[str, list[str]] = {}
    for name, facts in sets.items():
        data = facts["data_sha256"]
        shown = data if data == UNRECORDED else data[:_SHORT]
        by_policy.setdefault(facts["policy"], []).append(f"{name}, {label_count(facts)}, data {shown}")
    return " · ".join(f"Label policy {policy} ({'; '.join(shown)})" for policy, shown in by_policy.items())


def label_count(facts: Mapping[str, Any]) -> str:
    """How many labels a set is scored on, the list they are, and how many studies, where some have no judged label."""
    n, named = len(facts["labels"]), f" of {facts['label_list']}" if facts["label_list"] else ""
    some = f", of {facts['n_studies']} studies {facts['n_judged']} with a judged label"
    return f"{n} label{'' if n == 1 else 's'}{named}{some if facts['n_judged'] < facts['n_studies'] else ''}"


def common_labels(sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The labels that every one of ``sets`` (from ``set_facts``) is scored on, in the order of the first."""
    first, *others = (facts["labels"] for facts in sets.values())
    return [label for label in first if all(label in labels for labels in others)]


def check_studies(dataset: str, named: Mapping[str, Sequence[Prediction]]) -> None:
    """Refuse (ValueError) figures of different studies in one table, even under one policy and one manifest."""
    (first, found), *others = named.items()
    known = {p.study_id for p in found}
    faults = []
    for name, rows in others:
        here = {p.study_id for p in rows}
        if here != known:
            faults.append(
                f"{first} and {name}: {len(known - here)} only in the first {sorted(known - here)[:_SHOWN]}, "
                f"{len(here - known)} only in the second {sorted(here - known)[:_SHOWN]}"
            )
    if faults:
        raise ValueError(
            f"{dataset}: these runs answered different studies and cannot stand in one table:\n  "
            + "\n  ".join(faults)
            + "\nevaluate them anew with restart=true on one data config, with one limit and one seed of it"
        )


def _two_values(name: str, rows: Mapping[str, Sequence[Prediction]], field: str, what: str) -> list[str]:
    """The fault that one set's predictions differ in ``field``, with the arms of each value."""
    arms: dict[str, list[str]] = {}
    for arm, predictions in rows.items():
        for value in dict.fromkeys(getattr(p, field) or UNRECORDED for p in predictions):
            arms.setdefault(value, []).append(arm)
    if len(arms) < 2:
        return []
    return [f"{name}: {what} differs: " + " | ".join(f"'{value}' in {', '.join(who)}" for value, who in arms.items())]


def _two_truths(name: str, rows: Mapping[str, Sequence[Prediction]]) -> list[str]:
    """The faults that an arm's truth or judged labels of a study are not those of the first arm that answered it."""
    known: dict[str, tuple[str, Prediction]] = {}
    differing: dict[tuple[str, str], list[str]] = {}
    for arm, predictions in rows.items():
        for p in predictions:
            owner, first = known.setdefault(p.study_id, (arm, p))
            if set(first.truth) != set(p.truth) or set(first.labelled) != set(p.labelled):
                differing.setdefault((owner, arm), []).append(p.study_id)
    return [
        f"{name}: {a} and {b} hold another truth or other judged labels for {len(found)} studies: "
        f"{', '.join(found[:_SHOWN])}"
        for (a, b), found in differing.items()
    ]
