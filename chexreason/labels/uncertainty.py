"""Label policies: how raw marks (1 present, 0 absent, -1 uncertain, NaN blank) become targets and a mask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

UNCERTAIN = ("positive", "negative", "masked")
BLANK = ("negative", "masked")


@dataclass(frozen=True)
class LabelPolicy:
    """What an uncertain (-1) and a blank (NaN) mark count as, in a class the source labels at all.

    ``uncertain`` is "positive", "negative" or "masked"; ``blank`` is "negative" or "masked": a blank is never
    positive. ``name`` is one word, because it is shown beside every figure. Raises ValueError on any other word.
    """

    name: str
    uncertain: str
    blank: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"label policy name '{self.name}': use letters, digits, '_', '-' and '.' only")
        for field, value, known in (("uncertain", self.uncertain, UNCERTAIN), ("blank", self.blank, BLANK)):
            if value not in known:
                raise ValueError(f"label policy '{self.name}': {field}='{value}'; choose one of: {', '.join(known)}")

    @property
    def declared(self) -> str:
        """The policy in one line, as every prediction carries it: "zeros: uncertain=negative, blank=masked"."""
        return f"{self.name}: uncertain={self.uncertain}, blank={self.blank}"


# The paper: "only positive labels count", so -1 and blank are not positive. Right for sources that list what a report
# mentions (CheXpert, MIMIC-CXR); wrong for partial ones, where a blank means that nobody asked.
POSITIVES_ONLY = LabelPolicy("positives_only", uncertain="negative", blank="negative")
# CheXpert's U-Zeros, U-Ones and U-Ignore for the uncertain marks; a blank stays unjudged in all three.
ZEROS = LabelPolicy("zeros", uncertain="negative", blank="masked")
ONES = LabelPolicy("ones", uncertain="positive", blank="masked")
IGNORE = LabelPolicy("ignore", uncertain="masked", blank="masked")

LABEL_POLICIES = {policy.name: policy for policy in (POSITIVES_ONLY, ZEROS, ONES, IGNORE)}


def label_policy(spec: str | Mapping[str, str]) -> LabelPolicy:
    """The preset called ``spec``, or the policy that a mapping of ``name``, ``uncertain`` and ``blank`` spells out.

    Raises KeyError listing the presets, and ValueError on another key, another word or a preset's name with another
    meaning.
    """
    if isinstance(spec, str):
        if spec not in LABEL_POLICIES:
            raise KeyError(
                f"unknown label policy '{spec}'; known: {', '.join(LABEL_POLICIES)}; or spell one out: "
                "{name: mine, uncertain: masked, blank: negative}"
            )
        return LABEL_POLICIES[spec]
    keys = {field.name for field in fields(LabelPolicy)}
    if not isinstance(spec, Mapping) or set(spec) != keys or not all(isinstance(v, str) for v in spec.values()):
        raise ValueError(
            f"label policy {spec!r} must be a preset ({', '.join(LABEL_POLICIES)}) or a mapping of name, uncertain "
            f"({', '.join(UNCERTAIN)}) and blank ({', '.join(BLANK)})"
        )
    policy = LabelPolicy(**spec)
    preset = LABEL_POLICIES.get(policy.name, policy)
    if policy != preset:
        raise ValueError(f"label policy '{policy.declared}' takes a preset's name, which means '{preset.declared}'")
    return policy


def resolve(
    raw: npt.NDArray[np.floating], policy: LabelPolicy, labelled: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Turns raw marks into (target, mask); a masked entry has target 0 and must not be scored.

    ``raw`` is [N, L] with values 1, 0, -1, NaN; ``labelled`` is [L], False for a class the source never labels:
    that class is masked whatever the policy says. Both results are [N, L]; the inputs are unchanged.
    Raises ValueError on another value or on shapes that do not fit.
    """
    if raw.ndim != 2 or labelled.shape != raw.shape[1:]:
        raise ValueError(f"raw must be [N, L] and labelled [L]; got {raw.shape} and {labelled.shape}")
    blank = np.isnan(raw)  # [N, L]
    if not np.isin(raw[~blank], (1.0, 0.0, -1.0)).all():
        raise ValueError(f"raw labels must be 1, 0, -1 or NaN; got {sorted(set(raw[~blank].tolist()))}")
    uncertain = raw == -1.0  # [N, L]
    target = raw == 1.0  # [N, L]
    if policy.uncertain == "positive":
        target = target | uncertain
    mask = np.broadcast_to(labelled, raw.shape)
    if policy.uncertain == "masked":
        mask = mask & ~uncertain
    if policy.blank == "masked":
        mask = mask & ~blank
    return (target & mask).astype(np.int64), mask.copy()
