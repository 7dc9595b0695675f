"""A rollout of answers made up beforehand: what is logged of it, and which of its rows the loss counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from chexreason.data.batches import Batch, load_study
from chexreason.grpo.rollout import RolloutSpec, collect, rollout_stats
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.generate import Sampled, Sampling
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.types import Sample
from tests.support.presets import plain

pytestmark = pytest.mark.slow  # a model encodes

EDEMA = "<think>{}</think><solution>Edema</solution>"
TEXTS = [EDEMA.format("a"), EDEMA.format("a"), EDEMA.format("b"), "<think>on and on"]
REWARD = torch.tensor([1.0, 1.0, 0.0, 2.0])


@pytest.fixture
def rolled_out(gemma, studies):
    """Two studies of two answers: the first's are one, the last answer was cut off before its stop token."""
    ids, mask = gemma.encode_answers(TEXTS)
    mask[3, mask[3].sum() - 1] = 0
    finished = torch.tensor([True, True, True, False])
    sampled = Sampled(ids, mask, None, torch.zeros(ids.shape), finished)
    engine = SimpleNamespace(draw=lambda *given, **more: sampled)

    def reward(completions, studies, label_set):
        assert [c.text for c in completions] == TEXTS
        return {"x": REWARD}

    reward.weights = {}
    samples = tuple(Sample(study, "Describe.") for study in studies[:2])
    batch = Batch(samples, gemma.encode([load_study(s.study) for s in samples], ["Describe."] * 2))

    def run(**changes):
        answers = AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION)
        spec = RolloutSpec(answers, Sampling(64), 2, reward, plain(**changes), 0, micro_studies=1, engine=engine)
        return collect(gemma, batch, spec, step=0)

    return run


def test_the_figures_of_a_rollout_are_those_counted_by_hand(rolled_out):
    rollout = rolled_out()
    stats = rollout_stats(rollout)
    assert stats.pop("completion_length") == pytest.approx(rollout.mask.sum().item() / 4)
    assert stats == pytest.approx(
        {
            "reward": 1.0,
            "reward/x": 1.0,
            "reward_std": 2**0.5 / 2,  # of the groups: 0 and sqrt(2)
            "zero_variance_groups": 0.5,
            "truncated": 0.25,
            "fail_rate": 0.25,
            "distinct_completions": 0.75,  # one of two, and two of two
            "label_dominance": 0.75,  # Edema, of all four answers
        }
    )


@pytest.mark.parametrize(
    ("changes", "counted"),
    [({}, [1, 1, 1, 1]), ({"truncated": "mask"}, [1, 1, 1, 0]), ({"zero_variance": "mask"}, [0, 0, 1, 1])],
)
def test_rows_are_left_out_of_the_loss_by_what_the_engine_and_the_reward_said(rolled_out, changes, counted):
    rollout = rolled_out(**changes)
    expected = rollout.mask & torch.tensor(counted, dtype=torch.bool)[:, None]
    assert torch.equal(rollout.loss_mask, expected)
    assert rollout.loss_mask.any()
