"""What a reward remembers on two ranks is the memory of one rank that saw the same studies."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from chexreason.labels.catalog import CHEXPERT14
from chexreason.rewards.base import AcrossRanks
from chexreason.rewards.collapse import CollapseWindow
from chexreason.rewards.macro_f1 import MacroF1Reward
from chexreason.rewards.nuanced import NuancedReward
from chexreason.types import Completion, Parsed

pytestmark = pytest.mark.slow
GROUP = 3
# what is answered to four studies in each of two rollouts; None is malformed and stays out of the window
ANSWERS = [
    [["Edema"], ["Edema"], None, ["Edema"], ["Fracture"], ["Edema"], [], ["Edema"], ["Edema"], None, None, ["Edema"]],
    [
        ["Fracture"],
        ["Edema"],
        ["Edema"],
        None,
        None,
        None,
        ["Edema"],
        ["Edema"],
        ["Fracture"],
        ["Edema"],
        [],
        ["Edema"],
    ],
]


PREVALENCE = dict.fromkeys(CHEXPERT14, 0.1)
REWARDS = {
    "collapse": lambda: NuancedReward(PREVALENCE, CollapseWindow(size=8, dominance=0.5, cap=None)),
    "false_positive": lambda: MacroF1Reward(PREVALENCE, memory=16),
}


def rows(studies, answers):
    """Completions and their studies, ``GROUP`` a study."""
    asked = [study for study in studies[:4] for _ in range(GROUP)]
    pairs = []
    for study, labels in zip(asked, answers, strict=True):
        parsed = Parsed(tuple(labels or ()), broken="no_solution" if labels is None else None)
        pairs.append((Completion(study.study_id, "text", parsed, 9), study))
    return pairs


def scores(score, pairs) -> dict[str, torch.Tensor]:
    return score([c for c, _ in pairs], [s for _, s in pairs], CHEXPERT14)


@pytest.mark.parametrize("part", REWARDS)
def test_two_ranks_charge_as_one_and_hold_the_same_memory(part, on_ranks, studies):
    reward = REWARDS[part]

    def one(rank: int):
        scored = reward()
        return [scores(scored, rows(studies, answers)) for answers in ANSWERS], scored.state_dict()

    def two(rank: int):
        dist.init_process_group("gloo", rank=rank, world_size=2)
        scored = reward()
        shared, parts = AcrossRanks(scored, GROUP), []
        for answers in ANSWERS:
            pairs = rows(studies, answers)
            groups = [pairs[i : i + GROUP] for i in range(0, len(pairs), GROUP)]
            parts.append(scores(shared, [pair for group in groups[rank::2] for pair in group]))
        return parts, scored.state_dict()

    (whole, window), *ranks = on_ranks(1, one) + on_ranks(2, two)
    assert sum(float(parts[part].sum()) for parts in whole) < 0  # the memory was active
    for rank, (parts, state) in enumerate(ranks):
        assert state == window
        for call, expected in zip(parts, whole, strict=True):
            for name, values in expected.items():
                assert torch.equal(call[name], values.reshape(4, GROUP)[rank::2].flatten()), name
