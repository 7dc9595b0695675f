"""What a reward is, and the one place where its parts become a total."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from chexreason.labels.schema import LabelSet
from chexreason.types import Completion, Study

BY_LABEL = ("true_positive", "false_positive", "format")  # the parts that ``by_label`` makes


class Reward(Protocol):
    """Scores completions against their studies and returns named parts, each float [N] on the CPU in input order.

    Penalties are negative parts. ``weights`` says how much of each part enters the total; a part it leaves out has
    weight 1, and a metric is a part of weight 0.
    """

    weights: Mapping[str, float]

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
    ) -> dict[str, Tensor]: ...


@runtime_checkable
class Stateful(Protocol):
    """A reward that remembers earlier calls; a checkpoint must carry its state for a resume to be exact."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class AcrossRanks:
    """A reward that remembers, shown the completions of all ranks in the order in which one rank would have them.

    Ranks take samples in turn (``EpochOrder``), so group b of rank r is group ``b * world + r`` of that one batch.
    Every rank scores all groups and keeps its own rows: what is remembered is then alike on all, does not depend on
    their number, and the first rank's checkpoint serves every rank. A call waits for all ranks: all must call equally
    often, with equally many groups of ``group_size``.
    """

    def __init__(self, reward: Reward, group_size: int) -> None:
        self.reward, self.group_size, self.weights = reward, group_size, reward.weights

    def __call__(
        self, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
    ) -> dict[str, Tensor]:
        """The reward's parts of this rank's completions, each [N]."""
        rank, world, g = dist.get_rank(), dist.get_world_size(), self.group_size
        ranks: list[list[tuple[Completion, Study]]] = [[] for _ in range(world)]
        dist.all_gather_object(ranks, list(zip(completions, studies, strict=True)))  # processes of one run, no file
        groups = [rows[start : start + g] for start in range(0, len(completions), g) for rows in ranks]
        pairs = [pair for group in groups for pair in group]  # [world * N]
        parts = reward_parts(self.reward, [c for c, _ in pairs], [s for _, s in pairs], label_set)
        own = torch.arange(len(pairs)).reshape(-1, world, g)[:, rank].flatten()  # [N]
        return {name: values[own] for name, values in parts.items()}


def named_weights(reward: str, parts: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """The weight of every part, 1 where ``weights`` is silent; raises ValueError on a name that is not a part."""
    given = {name: float(value) for name, value in (weights or {}).items()}
    unknown = sorted(set(given) - set(parts))
    if unknown:
        raise ValueError(f"{reward} has no part {unknown}; set weights only for its parts: {', '.join(parts)}")
    return {name: given.get(name, 1.0) for name in parts}


def score(
    reward: Reward, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total reward [N] and its unweighted parts, each [N], of N completions and the study each one answers.

    A study without a judged label earns 0 in all parts, whatever the answer, and the reward does not see it.
    Call it once per rollout and in training only: a stateful reward remembers what it scores.
    Raises ValueError when rows are mispaired, when a part has the wrong shape, and on NaN or infinity.
    """
    if len(completions) != len(studies):
        raise ValueError(f"{len(completions)} completions for {len(studies)} studies: pass one study per completion")
    for row, (completion, study) in enumerate(zip(completions, studies, strict=True)):
        if completion.study_id != study.study_id:
            raise ValueError(f"row {row} pairs a completion of '{completion.study_id}' with study '{study.study_id}'")

    parts = reward_parts(reward, completions, studies, label_set)
    total = torch.zeros(len(completions))  # [N]
    for part, weight in named_weights(type(reward).__name__, tuple(parts), reward.weights).items():
        total = total + weight * parts[part]
    return total, parts


def reward_parts(
    reward: Reward, completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet
) -> dict[str, Tensor]:
    """The parts [N] that ``reward`` gives the rows with a judged label, called on these alone; 0 in the other rows.

    ``AcrossRanks`` is called on all rows: it needs equally many on every rank, and leaves out the others itself.
    """
    own = [row for row, study in enumerate(studies) if any(study.mask) or isinstance(reward, AcrossRanks)]
    if not own:
        return {part: torch.zeros(len(completions)) for part in reward.weights}
    scored = [completions[row] for row in own]
    parts = {}
    for part, values in reward(scored, [studies[row] for row in own], label_set).items():
        _check(type(reward).__name__, part, values, scored)
        parts[part] = values.new_zeros(len(completions))  # [N]
        parts[part][own] = values
    return parts


def scored_labels(completion: Completion, study: Study, label_set: LabelSet) -> tuple[frozenset[str], frozenset[str]]:
    """True and predicted labels of one row, both without the classes that the study's source does not label."""
    if not len(study.target) == len(study.mask) == len(label_set):
        raise ValueError(
            f"study '{study.study_id}' has {len(study.target)} targets and {len(study.mask)} mask entries, but label "
            f"set '{label_set.name}' has {len(label_set)} labels: read the manifest with the label set of the reward"
        )
    labelled = frozenset(label_set.decode(study.mask))
    return labelled & frozenset(label_set.decode(study.target)), labelled & frozenset(completion.parsed.labels)


def checked_prevalence(reward: str, prevalence: Mapping[str, float]) -> dict[str, float]:
    """A copy; raises ValueError on a share outside 0..1."""
    if wrong := {label: share for label, share in prevalence.items() if not 0.0 <= share <= 1.0}:
        raise ValueError(f"{reward}: prevalence is a share of the training studies, in 0..1, not {wrong}")
    return dict(prevalence)


def require_prices(reward: str, priced: Collection[str], studies: Sequence[Study], label_set: LabelSet) -> None:
    """Fails on the first batch, not on the first false positive of a rare label hours later."""
    for study in studies:
        if missing := [label for label in label_set.decode(study.mask) if label not in priced]:
            raise ValueError(
                f"no training prevalence for {missing}, which study '{study.study_id}' labels: "
                f"pass {reward} a prevalence for every label the training manifest labels"
            )


def by_label(
    completions: Sequence[Completion],
    studies: Sequence[Study],
    label_set: LabelSet,
    gain: Mapping[str, float],
    cost: Mapping[str, float],
    broken: float,
) -> dict[str, Tensor]:
    """Parts [N] of a reward that prices each label: what was rightly named, wrongly named, and malformed output.

    ``true_positive`` is the mean over the study's judged labels of the ``gain`` of those rightly named,
    ``false_positive`` minus that of the ``cost`` of those wrongly named, ``format`` minus ``broken`` for an output that
    is not valid, which names nothing. All are 0 for a study without a judged label.
    """
    rows = []
    for completion, study in zip(completions, studies, strict=True):
        truth, named = scored_labels(completion, study, label_set)
        named, judged = named if completion.parsed.valid else frozenset(), sum(study.mask)
        # Sorted, so that the rounded sum does not depend on the order in which a set yields its labels.
        right, wrong = (
            sum(price[x] for x in sorted(found)) for found, price in ((named & truth, gain), (named - truth, cost))
        )
        rows.append(
            (right / max(judged, 1), -wrong / max(judged, 1), -broken * bool(judged and not completion.parsed.valid))
        )
    return dict(zip(BY_LABEL, torch.tensor(rows).reshape(-1, len(BY_LABEL)).unbind(1), strict=True))


def set_jaccard(truth: frozenset[str], predicted: frozenset[str], n_unknown: int = 0) -> float:
    """Intersection over union of two label sets; two empty sets agree (1), and each unknown label widens the union.

    Ask first whether the study has a judged label: without one both sets are empty whatever was answered.
    """
    union = len(truth | predicted) + n_unknown
    return len(truth & predicted) / union if union else 1.0


def _check(reward: str, part: str, values: Tensor, completions: Sequence[Completion]) -> None:
    expected = (len(completions),)
    if tuple(values.shape) != expected or not values.is_floating_point() or values.device.type != "cpu":
        raise ValueError(
            f"{reward} returned part '{part}' as {values.dtype} {tuple(values.shape)} on {values.device}; "
            f"it must be float {expected} on the CPU"
        )
    bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
    if bad:
        row = bad[0]
        raise ValueError(
            f"{reward} gave {values[row].item()} for part '{part}' of study '{completions[row].study_id}', "
            f"completion {completions[row].text[:80]!r}"
        )
