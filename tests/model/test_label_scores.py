"""Label log-odds: the pairs of answers compared, and their likelihoods against one answer scored at a time."""

from __future__ import annotations

import pytest
import torch

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.model.label_scores import NO_FINDING, label_log_odds, label_pairs
from chexreason.model.logprobs import completion_scores
from chexreason.parsing import AnswerFormat, Grammar, format_answer
from chexreason.types import Parsed

pytestmark = pytest.mark.slow  # each test runs a model


def test_every_label_is_put_in_and_left_out():
    pairs = dict(zip(NIH9, label_pairs(["Edema", "Atelectasis"], NIH9), strict=True))
    assert pairs["Edema"] == (("Atelectasis", "Edema"), [("Atelectasis",)])
    assert pairs["Pneumonia"] == (("Atelectasis", "Edema", "Pneumonia"), [("Atelectasis", "Edema")])
    assert pairs[NO_FINDING] == ((NO_FINDING,), [("Atelectasis", "Edema")])


def test_a_healthy_answer_is_compared_with_the_likeliest_single_finding():
    pairs = dict(zip(NIH9, label_pairs([NO_FINDING], NIH9), strict=True))
    assert pairs["Edema"] == (("Edema",), [(NO_FINDING,)])
    assert pairs[NO_FINDING] == ((NO_FINDING,), [(label,) for label in NIH9 if label != NO_FINDING])


@pytest.mark.parametrize("chosen", [(), (NO_FINDING,), ("Edema",), tuple(CHEXPERT14)])
def test_every_answer_compared_can_be_written(chosen):
    for present, absent in label_pairs(chosen, CHEXPERT14):
        for labels in (present, *absent):
            assert format_answer("x", labels)


def test_the_odds_are_those_of_whole_answers_scored_alone(policy, images):
    prompts = policy.encode(images[:2], ["Describe.", "What is seen on this film?"])
    answers = [Parsed(("Edema", "Fracture"), think="Haze on both sides."), Parsed((NO_FINDING,), think="Clear.")]
    odds = label_log_odds(policy, prompts, answers, AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION))
    assert odds.shape == (2, 14)

    def alone(study: int, *labels: str) -> float:
        ids, mask = policy.encode_answers([format_answer(answers[study].think, labels)])
        with torch.no_grad():
            return float(completion_scores(policy, prompts.select([study]), ids, mask, shared=False).logp.sum())

    edema, healthy = CHEXPERT14.index("Edema"), CHEXPERT14.index(NO_FINDING)
    assert float(odds[0, edema]) == pytest.approx(alone(0, "Edema", "Fracture") - alone(0, "Fracture"), abs=1e-3)
    singles = [alone(1, label) for label in CHEXPERT14 if label != NO_FINDING]
    assert float(odds[1, healthy]) == pytest.approx(alone(1, NO_FINDING) - max(singles), abs=1e-3)
    assert float(odds[1, edema]) == pytest.approx(alone(1, "Edema") - alone(1, NO_FINDING), abs=1e-3)
