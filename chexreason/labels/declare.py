"""What the labels of a set mean, in words: its policy, the classes it judges, its vendor's names."""

from __future__ import annotations

from collections.abc import Sequence

from chexreason.labels.catalog import CHEXPERT14, label_set
from chexreason.labels.crosswalk import Crosswalk
from chexreason.labels.uncertainty import LabelPolicy

_COUNTS_AS = {"positive": "counts as present", "negative": "counts as absent", "masked": "is left out of the scores"}


def in_words(policy: LabelPolicy) -> str:
    """The policy as a sentence without a subject: what an uncertain and a blank mark become."""
    if policy.uncertain == policy.blank:
        return f"uncertain or blank {_COUNTS_AS[policy.blank]}"
    return f"uncertain {_COUNTS_AS[policy.uncertain]}, blank {_COUNTS_AS[policy.blank]}"


def declare(
    name: str,
    policy: LabelPolicy,
    judged: Sequence[str],
    crosswalk: Crosswalk | None = None,
    label_list: str | None = None,
) -> str:
    """The declaration of the set ``name`` as plain text of several lines.

    ``judged`` are the labels with any mark in the set's manifest, ``crosswalk`` is None where the vendor writes
    CheXpert's own names. Raises KeyError on an unknown ``label_list``.
    """
    allowed = label_set(label_list).labels if label_list is not None else CHEXPERT14.labels
    scored = [label for label in CHEXPERT14 if label in judged and label in allowed]
    never = [label for label in CHEXPERT14 if label not in judged]
    set_aside = [label for label in CHEXPERT14 if label in judged and label not in scored]
    lines = [
        f"{name}: labels by {policy.declared} ({in_words(policy)})",
        f"  scored on {len(scored)} of {len(CHEXPERT14)} labels: {', '.join(scored) or 'none'}",
    ]
    if never:
        lines.append(f"  never judged, so not scored: {', '.join(never)}")
    if set_aside:
        lines.append(f"  set aside by its label list {label_list}: {', '.join(set_aside)}")
    lines.append(f"  names of {crosswalk.vendor}:" if crosswalk else "  names: CheXpert's own, one to one")
    rows = crosswalk.rows() if crosswalk else []
    width = max((len(theirs) for theirs, _, _ in rows), default=0)
    for theirs, ours, derived in rows:
        also = f"; makes {derived} positive" if derived else ""
        lines.append(f"    {theirs:<{width}} -> {ours or 'no label of its own'}{also}")
    return "\n".join(lines) + "\n"
