"""The simple rewards and their mixes by hand, and what the words a model writes are worth under each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import parse
from chexreason.rewards.base import score
from chexreason.rewards.collapse import CollapseWindow
from chexreason.rewards.format import FormatReward
from chexreason.rewards.hard import HardReward
from chexreason.rewards.mix import MixReward
from chexreason.rewards.nuanced import NuancedReward
from chexreason.types import Completion

PREVALENCE = dict.fromkeys(CHEXPERT14, 0.1)


def test_hard_by_hand(study: Callable, answer: Callable) -> None:
    truth = study("Edema", "Pneumonia")
    rows = [
        answer("Edema", "Pneumonia"),  # 1
        answer("Edema", "Fracture"),  # 1/3
        answer("Edema", "Fracture", n_tokens=249),  # 1/3 - 0.1
        answer("Fracture", n_tokens=249),  # 0 - 0.1
        answer("Edema", "Pneumonia", n_tokens=250),  # 1: the limit itself is long enough
        answer("Edema", "Pneumonia", n_tokens=10, broken="no_solution"),  # 0
    ]
    values, parts = score(HardReward(), rows, [truth] * len(rows), CHEXPERT14)
    assert score(HardReward(), [], [], CHEXPERT14)[0].shape == (0,)  # an empty batch
    assert values.tolist() == pytest.approx([1, 1 / 3, 1 / 3 - 0.1, -0.1, 1, 0])
    assert parts["jaccard"].tolist() == pytest.approx([1, 1 / 3, 1 / 3, 0, 1, 0])
    assert parts["length_penalty"].tolist() == pytest.approx([0, 0, -0.1, -0.1, 0, 0])


def test_unknown_labels_are_ignored_or_count_as_false_positives(study: Callable, answer: Callable) -> None:
    rows = [answer("Edema", unknown=("Cat", "Dog"))]
    for unknown, total in (("ignore", 1.0), ("penalise", 1 / 3)):
        found, _ = score(HardReward(unknown=unknown), rows, [study("Edema")], CHEXPERT14)
        assert found.item() == pytest.approx(total)
    with pytest.raises(ValueError, match="unknown='drop'"):
        HardReward(unknown="drop")  # type: ignore[arg-type]


def mixed(**weights: float) -> MixReward:
    rewards = {"hard": HardReward(), "nuanced": NuancedReward(PREVALENCE, CollapseWindow(size=10))}
    return MixReward(rewards, weights)


def test_the_total_is_the_weighted_sum_of_the_totals(study: Callable, answer: Callable) -> None:
    rows, studies = [answer("Edema", n_tokens=9), answer("Fracture")], [study("Edema", "Pneumonia")] * 2
    alone = [score(reward, rows, studies, CHEXPERT14)[0] for reward in mixed().rewards.values()]
    total, parts = score(mixed(hard=2, nuanced=0.5), rows, studies, CHEXPERT14)
    torch.testing.assert_close(total, 2 * alone[0] + 0.5 * alone[1])
    assert list(parts)[:3] == ["hard/jaccard", "hard/length_penalty", "nuanced/exact"]
    assert parts["hard/length_penalty"].tolist() == pytest.approx([-0.1, 0])


def test_a_reward_of_weight_zero_is_a_metric_and_inner_weights_count(study: Callable, answer: Callable) -> None:
    rewards = {"hard": HardReward(weights={"length_penalty": 0.5}), "format": FormatReward()}
    total, parts = score(MixReward(rewards, {"format": 0}), [answer("Edema", n_tokens=9)], [study("Edema")], CHEXPERT14)
    assert total.item() == pytest.approx(0.95)
    assert parts["format/valid"].tolist() == [1.0]
    bare = FormatReward()
    bare.weights = {}  # a part that its reward gives no weight has weight one
    assert score(MixReward({"bare": bare}, {"bare": 3}), [answer()], [study()], CHEXPERT14)[0].item() == 3.0


def test_wrong_mixes_are_refused() -> None:
    with pytest.raises(ValueError, match="a mix of no rewards"):
        MixReward({})
    with pytest.raises(ValueError, match=r"no part \['nuance'\].*hard, nuanced"):
        mixed(nuance=1.0)
    with pytest.raises(ValueError, match="most=-1"):
        FormatReward(most=-1)


def test_format_by_hand(study: Callable, answer: Callable) -> None:
    rows = [
        answer("Edema"),
        answer("Edema", unknown=("Cat",), duplicates=("edema",), stray_blocks=1),
        answer("Edema", duplicates=("edema",) * 9),
        answer("Edema", unknown=("Cat",), broken="no_think"),
    ]
    total, parts = score(FormatReward(weights={"extras": 0.5}), rows, [study("Edema")] * 4, CHEXPERT14)
    assert parts["valid"].tolist() == [1, 1, 1, 0]
    assert parts["extras"].tolist() == [0, -3, -4, 0]
    assert total.tolist() == [1, -0.5, -1, 0]


@pytest.mark.parametrize(
    ("text", "hard", "nuanced"),
    [
        ("<think>x</think><solution>Edema, Pneumonia</solution>", 1.0, 150),
        ("<think>x</think><solution>pneumonia; EDEMA</solution>", 1.0, 150),  # order and case
        ("<think>x</think><solution>Edema, edema, Pneumonia</solution>", 1.0, 125),  # a duplicate
        ("<think>x</think><solution>Edema, Pneumonia, Cat</solution>", 1.0, 50),  # an unknown label
        ("<think>x</think><solution>Edema, Pneumonia</solution> Thanks.", 1.0, 140),  # stray text
        ("<think>x</think><solution>Edema</solution>", 0.5, 35),
        ("<think>x</think><solution>Label 1, Label 2</solution>", 0.0, -200),  # an echo of the prompt
        ("<think>x</think><solution>Edema, Pneumonia", 0.0, -100),  # cut off
        ("Edema, Pneumonia", 0.0, -100),
        ("", 0.0, -100),
        ("<think>x</think><solution></solution>", 0.0, -100),  # the empty answer is no answer
        ("<solution>Edema</solution><solution>Pneumonia</solution>", 0.0, -100),  # hedging
    ],
)
def test_text_to_reward(study: Callable, text: str, hard: float, nuanced: float) -> None:
    rows = [Completion("s1", text, parse(text, CHEXPERT14), n_tokens=300)]
    studies = [study("Edema", "Pneumonia")]
    assert score(HardReward(), rows, studies, CHEXPERT14)[0].item() == pytest.approx(hard)
    priced = NuancedReward(PREVALENCE, CollapseWindow())
    assert score(priced, rows, studies, CHEXPERT14)[0].item() == pytest.approx(nuanced)
