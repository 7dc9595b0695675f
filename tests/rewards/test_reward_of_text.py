"""From the words a model writes to its reward: parser and rewards together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import parse
from chexreason.rewards.base import score
from chexreason.rewards.collapse import CollapseWindow
from chexreason.rewards.hard import HardReward
from chexreason.rewards.nuanced import NuancedReward
from chexreason.types import Completion


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
    priced = NuancedReward(dict.fromkeys(CHEXPERT14, 0.1), CollapseWindow())
    assert score(priced, rows, studies, CHEXPERT14)[0].item() == pytest.approx(nuanced)
