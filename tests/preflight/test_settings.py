"""The table of settings: each row with its fault planted in sound values, and the sound values without a word."""

from __future__ import annotations

import pytest
import torch

from chexreason.preflight import settings as p

LABELS = ("Edema", "Fracture")
SOUND = {
    p.rollout_faults: {"group_size": 2, "temperature": 0.7, "checkpointing": False, "dropout": {"layer": 0.0}},
    p.precision_faults: {"precision": "32-true"},
    p.schedule_faults: {"n_steps": 100, "warmup": 0.05},
    p.label_faults: {"labels": LABELS, "masks": [(True, False), (False, True)]},
    p.learned_faults: {"answer_tokens": {"s1": 5}, "max_new_tokens": 5},
    p.policy_faults: {
        "attention_mask": torch.tensor([[0] + [1] * 600, [1] * 601]),
        "stop_ids": [1],
        "known_ids": {1, 2},
        "image_id": 7,
        "banned_ids": [5, 7],
        "context": 1000,
        "logits": torch.tensor([[0.0, 1.0], [0.0, 2.0]]),
        "max_new_tokens": 399,
    },
}
# the values that plant a fault, words of its message, whether it stops the run
CASES = [
    (p.rollout_faults, {"dropout": {"layer": 0.1}}, r"0\.1 in layer\): set adapter\.dropout=0", True),
    (p.rollout_faults, {"temperature": 0.0}, "temperature above 0", True),
    (p.rollout_faults, {"checkpointing": True}, r"gradient_checkpointing=false", True),
    (p.rollout_faults, {"group_size": 1}, r"phase\.module\.group_size=1: a group of one", True),
    (p.precision_faults, {"precision": "bf16-mixed"}, r"bf16-mixed .*set trainer\.precision=32-true", True),
    (p.schedule_faults, {"n_steps": 2, "warmup": 1.0}, "warm-up takes 2", True),
    (p.schedule_faults, {"n_steps": 4}, "less than one", False),
    (p.label_faults, {"masks": [(True, False)]}, "1 of 2 labels .* Fracture", False),
    (p.label_faults, {"masks": [(False, False)]}, "2 of 2 labels", True),
    (p.learned_faults, {"answer_tokens": {"s1": 4, "s2": 0}}, "1 answers .* s2", True),
    (p.learned_faults, {"answer_tokens": {}}, "no answer is given", True),
    (p.learned_faults, {"answer_tokens": {"s1": 9, "s2": 1, "s3": 1}}, "longest 9.*max_new_tokens=9", False),
    (p.learned_faults, {"answer_tokens": {"s1": 9}}, "1 of 1 answers", True),
    (p.policy_faults, {"attention_mask": torch.tensor([[1, 1], [1, 0]])}, "1 of 2 prompts", True),
    (p.policy_faults, {"stop_ids": [1, 9]}, r"stop ids \[9\]", True),
    (p.policy_faults, {"stop_ids": []}, "no stop id", True),
    (p.policy_faults, {"banned_ids": [5]}, "image token 7", True),
    (p.policy_faults, {"max_new_tokens": 400}, "max_new_tokens=399 or less", True),
    (p.policy_faults, {"context": 600}, "shorter prompt=", True),
    (p.policy_faults, {"logits": torch.ones(2, 2)}, "the model is blind", True),
]


@pytest.mark.parametrize("check", SOUND, ids=lambda check: check.__name__)
def test_of_sound_values_nothing_is_said(check):
    assert list(check(**SOUND[check])) == []


@pytest.mark.parametrize(("check", "planted", "words", "stops"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_a_planted_fault_is_found_and_nothing_else(check, planted, words, stops):
    (fault,) = check(**SOUND[check] | planted)
    assert fault.stops is stops
    with pytest.raises(ValueError, match=words):
        p.refuse([p.SettingFault(fault.text)])


def test_without_a_warm_up_none_is_missed():
    assert list(p.schedule_faults(4, 0.0)) == []


def test_all_errors_are_listed_once_and_warnings_are_returned():
    errors, warning = [p.SettingFault("first"), p.SettingFault("second")], p.SettingFault("third", stops=False)
    with pytest.raises(ValueError, match=r"2 of the settings.*\n  first\n  second\n  \(warning\) third"):
        p.refuse([errors[0], warning, errors[1]])
    assert p.refuse([warning]) == ["third"]


def test_a_packaged_policy_sees_and_one_with_a_zero_projector_is_blind(gemma):
    def faults() -> list[p.SettingFault]:
        return list(p.policy_faults(**p.policy_facts(gemma, "Describe."), max_new_tokens=8))

    assert faults() == []
    torch.nn.init.zeros_(gemma.base.model.multi_modal_projector.mm_input_projection_weight)
    assert "blind" in faults()[0].text
