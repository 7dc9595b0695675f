"""Label log-odds: the pairs of answers compared, and their likelihoods against one answer scored at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.model.adapters import save_adapter
from chexreason.model.label_scores import NO_FINDING, label_log_odds, label_pairs, mean_odds
from chexreason.model.load import load_policy
from chexreason.model.logprobs import choice_scores, completion_scores
from chexreason.model.policy import pad_right
from chexreason.parsing import AnswerFormat, Grammar, format_answer
from chexreason.types import Parsed
from tests.support.adapters import narrowed, with_lora

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


TEXTS = ("Describe.", "What is seen on this film, and what is not?", "Hi")
ANSWERS = [
    Parsed(("Edema", "Fracture"), think="Haze on both sides, more on the left; the heart is not enlarged. " * 2),
    Parsed((NO_FINDING,), think="Clear."),
    Parsed((), broken="no_solution"),
]
FORMAT = AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION)


def plain_odds(policy, prompts, thinks: list[str]) -> torch.Tensor:
    """The log-odds as they are defined: every whole answer in a row of its own, after its own prompt."""
    odds = []
    for study, (answer, think) in enumerate(zip(ANSWERS, thinks, strict=True)):
        pairs = label_pairs(answer.labels, CHEXPERT14)
        listed = list(dict.fromkeys(labels for present, absent in pairs for labels in (present, *absent)))
        ids, mask = policy.encode_answers([format_answer(think, labels) for labels in listed])
        with torch.no_grad():
            rows = completion_scores(
                policy, prompts.select([study]), ids, mask, group_size=len(listed), shared=False
            ).logp.double()
        known = dict(zip(listed, rows.sum(1).tolist(), strict=True))
        odds.append([known[present] - max(known[labels] for labels in absent) for present, absent in pairs])
    return torch.tensor(odds)


@pytest.mark.parametrize(("window", "chained"), [(None, False), (20, True)])
def test_the_odds_are_those_of_whole_answers(policy, images, window, chained, tmp_path):
    """Reasonings and prompts of three lengths; then a sliding window that ends inside them, and a chain of adapters."""
    if chained:
        save_adapter(with_lora(copy.deepcopy(policy)), tmp_path, {})
        policy = with_lora(load_policy(policy.source, dtype="float32", adapters=[str(tmp_path)]), 1)
    if policy.base.config.model_type == "gemma3":
        narrowed(policy, window)
    prompts = policy.eval().encode(images, TEXTS)
    expected = plain_odds(policy, prompts, [answer.think for answer in ANSWERS])
    for given in (prompts, policy.with_features(prompts)):
        torch.testing.assert_close(label_log_odds(policy, given, ANSWERS, FORMAT), expected, atol=1e-5, rtol=1e-6)
    assert expected.std() > 0.1


@pytest.mark.parametrize(("how", "bound"), [({"dtype": "bfloat16"}, 0.2), ({"quantise": "nf4"}, 0.05)])
def test_in_few_bits_the_odds_are_those_of_whole_answers_but_for_rounding(images, how, bound):
    policy = load_policy("tiny:tiny_gemma3", **({"dtype": "float32"} | how)).eval()
    prompts, thinks = policy.encode(images, TEXTS), ["x"] * 3
    expected, found = plain_odds(policy, prompts, thinks), label_log_odds(policy, prompts, ANSWERS, FORMAT, [["x"]] * 3)
    assert (found - expected).abs().max() < bound < 0.1 * expected.std()


def test_several_reasonings_are_averaged_in_probability(policy, images):
    prompts = policy.encode(images, TEXTS)
    thinks = [["", "Clear lungs."], ["Haze.", "A large heart, and fluid on the left."], ["", ""]]
    odds = label_log_odds(policy, prompts, ANSWERS, FORMAT, thinks)
    each = [plain_odds(policy, prompts, [pair[k] for pair in thinks]) for k in range(2)]
    torch.testing.assert_close(odds.sigmoid(), (each[0].sigmoid() + each[1].sigmoid()) / 2, atol=1e-5, rtol=0)
    assert (each[0] - each[1])[:2].abs().max() > 0.1
    torch.testing.assert_close(odds[2], each[0][2], atol=1e-5, rtol=1e-6)
    sure = torch.tensor([[[200.0, -300.0]] * 2])
    assert torch.equal(mean_odds(sure), sure[:, 0])


def test_choices_that_differ_at_once_or_end_early_are_scored_like_whole_completions(policy, images):
    rows = [[[5, 6, 7, 8], [5, 6, 9, 8], [5, 9, 7, 8], [5, 6]], [[6, 5], [7, 5], [8, 9, 9, 9], [6, 5]]]
    prompts = policy.encode(images[:1], TEXTS[:1])
    with torch.no_grad():
        found = torch.tensor(choice_scores(policy, prompts, rows, group_size=2), dtype=torch.float64)
        ids, mask = pad_right([choice for row in rows for choice in row], 0)
        whole = completion_scores(policy, prompts, ids, mask, group_size=8).logp.double().sum(1).reshape(2, 4)
    torch.testing.assert_close(found - found[:, :1], whole - whole[:, :1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], whole[1], atol=1e-5, rtol=0)  # they share nothing


def test_they_take_less_than_a_quarter_of_the_products_of_whole_answers_on_shared_prompts(gemma, images):
    prompts, counted = gemma.with_features(gemma.encode(images[:1], ["Describe. " * 40])), []
    answer = Parsed(
        ("Edema", "Fracture"), think="Haze on both sides, more on the left; the heart is not enlarged. " * 3
    )
    listed = {labels for present, absent in label_pairs(answer.labels, CHEXPERT14) for labels in (present, *absent)}
    ids, mask = gemma.encode_answers([format_answer(answer.think, labels) for labels in sorted(listed)])
    for score in (
        lambda: label_log_odds(gemma, prompts, [answer], FORMAT),
        lambda: completion_scores(gemma, prompts, ids, mask, group_size=len(listed)),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            score()
        counted.append(counter.get_total_flops())
    assert 0 < counted[0] < counted[1] / 4
