"""Checks of settings: each with its fault planted, and without."""

from __future__ import annotations

import pytest
import torch

from chexreason.preflight import settings as p

LABELS = ("Edema", "Fracture")
A, B = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0])
# check, arguments with the fault, words of its message, whether it stops the run, arguments without the fault
CASES = [
    (p.right_padding, (torch.tensor([[1, 1], [1, 0]]),), "1 of 2 prompts", True, (torch.tensor([[0, 1], [1, 1]]),)),
    (p.rollout_dropout, ({"layer": 0.1},), r"0\.1 in layer\): set adapter\.dropout=0", True, ({"layer": 0.0},)),
    (p.unknown_stop_ids, ([1, 9], {1, 2}), r"stop ids \[9\]", True, ([1], {1, 2})),
    (p.unknown_stop_ids, ([], {1}), "no stop id", True, ([2], {1, 2})),
    (p.sampleable_image_token, (7, [5]), "image token 7", True, (7, [5, 7])),
    (p.truncated_prompts, (700, 400, 1000), "max_new_tokens=300 or less", True, (600, 400, 1000)),
    (p.truncated_prompts, (1200, 400, 1000), "shorter prompt=", True, (1, 1, 1000)),
    (p.blind, (A, A.clone()), "the model is blind", True, (A, B)),
    (p.nothing_to_learn, ({"s1": 4, "s2": 0},), "1 answers .* s2", True, ({"s1": 4},)),
    (p.nothing_to_learn, ({},), "no answer is given", True, ({"s1": 1},)),
    (p.warmup_only, (2, 1.0), "warm-up takes 2", True, (100, 0.05)),
    (p.warmup_only, (4, 0.05), "less than one", False, (4, 0.0)),
    (p.labels_not_in_data, (LABELS, {"Edema"}), "1 of 2 labels .* Fracture", False, (LABELS, set(LABELS))),
    (p.labels_not_in_data, (LABELS, set()), "2 of 2 labels", True, (LABELS, set(LABELS))),
    (p.long_answers, ({"s1": 9, "s2": 1, "s3": 1}, 5), "longest 9.*max_new_tokens=9", False, ({"s1": 5}, 5)),
    (p.long_answers, ({"s1": 9}, 5), "1 of 1 answers", True, ({"s1": 5}, 5)),
    (p.idle_clip, ("grpo", 1), "its clip never acts", False, ("paper", 2)),
    (p.scaled_dr_grpo, ("x", "constant", "std"), r"objective\.scale=none", False, ("x", "constant", "none")),
    (p.scaled_dr_grpo, ("paper", "constant", "std"), "still divides", False, ("grpo", "sequence_mean", "std")),
    (p.module_settings, (2, None), r"phase\.accumulate=2: .*micro_studies", True, (1, None)),
    (p.module_settings, (1, 0.5), r"phase\.gradient_clip_val=0\.5: .*max_grad_norm", True, (1, 0.0)),
    (p.unreachable_length, (250, 0.1, 144), r"reward\.min_length=250 .*=144", False, (144, 0.1, 144)),
    (p.unreachable_length, (250, 0.1, 144), r"sampling\.max_new_tokens=144", False, (250, 0.0, 144)),
    (p.greedy_rollout, (0.0,), "temperature above 0", True, (0.7,)),
    (p.checkpointed_prefix, (True,), "gradient_checkpointing", True, (False,)),
    (p.uncorrected_truncation, (0.95, 0, False), r"top_p=0\.95", False, (1.0, 0, False)),
    (p.uncorrected_truncation, (1.0, 50, False), "top_k=50", False, (0.95, 0, True)),
    (p.base_as_reference, (0.15, []), "towards the base model", False, (0.15, ["out/sft"])),
    (
        p.short_completions,
        (64, 96, "out/sft"),
        r"out/sft .* up to 96: set model\.max_new_tokens=96",
        False,
        (96, 96, "x"),
    ),
]


@pytest.mark.parametrize(
    ("check", "faulty", "words", "stops", "sound"), CASES, ids=lambda c: getattr(c, "__name__", "")
)
def test_a_check_finds_its_fault_and_nothing_else(check, faulty, words, stops, sound):
    finding = check(*faulty)
    assert finding.stops is stops
    with pytest.raises(ValueError, match=words):
        p.report([p.Finding(finding.text)])
    assert check(*sound) is None


def test_all_errors_are_listed_once_and_warnings_are_returned():
    errors, warning = [p.Finding("first"), p.Finding("second")], p.Finding("third", stops=False)
    with pytest.raises(ValueError, match=r"2 of the settings.*\n  first\n  second\n  \(warning\) third"):
        p.report([errors[0], None, warning, errors[1]])
    assert p.report([None, warning]) == ["third"]


def test_a_packaged_policy_sees_and_one_with_a_zero_projector_is_blind(gemma):
    images = p.two_images()
    prompts = gemma.encode(images, ["Describe."] * 2)
    assert p.blind(*p.first_logits(gemma, prompts)) is None
    torch.nn.init.zeros_(gemma.base.model.multi_modal_projector.mm_input_projection_weight)
    assert p.blind(*p.first_logits(gemma, prompts)) is not None
