"""Arms stand in one table only where they were scored alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.statistics.comparable import basis, set_facts
from chexreason.types import Prediction

ZEROS, ONES = "zeros: uncertain=negative, blank=masked", "ones: uncertain=positive, blank=masked"


def _declared(rows: list[Prediction], policy: str = ZEROS, data: str = "aa11") -> list[Prediction]:
    return [replace(p, policy=policy, data_sha256=data) for p in rows]


def test_facts_of_each_set(make_arm) -> None:
    arm = _declared(make_arm(0.5))
    facts = set_facts({"base": arm, "sft": _declared(make_arm(0.8))}, CHEXPERT14)
    assert list(facts) == ["phantom_a", "phantom_b"]
    assert facts["phantom_b"] == {
        "policy": ZEROS, "data_sha256": "aa11", "labels": list(NIH9.labels), "label_list": "nih9",
        "n_studies": 20, "n_judged": 20,
    }  # fmt: skip
    shown = basis(facts)
    a, b = "phantom_a, 14 labels of chexpert14, data aa11", "phantom_b, 9 labels of nih9, data aa11"
    assert shown == f"Label policy {ZEROS} ({a}; {b})"
    facts["phantom_b"]["policy"] = ONES
    facts["phantom_b"]["data_sha256"] = "0123456789abcdef"
    assert f", data aa11) · Label policy {ONES} (phantom_b, 9 labels of nih9, data 01234567)" in basis(facts)
    partial = [replace(p, labelled=("Edema",), truth=()) for p in arm]
    shown = basis(set_facts({"base": partial}, CHEXPERT14))
    assert "(phantom_a, 1 label, data aa11; phantom_b, 1 label, data aa11)" in shown


def test_files_from_before_the_fields_are_comparable_with_each_other_only(make_arm) -> None:
    old = make_arm(0.5)
    facts = set_facts({"base": old, "sft": make_arm(0.6)}, CHEXPERT14)
    assert {facts[name][field] for name in facts for field in ("policy", "data_sha256")} == {"not recorded"}
    shown = "Label policy not recorded (phantom_a, 14 labels of chexpert14, data not recorded; phantom_b"
    assert basis(facts).startswith(shown)
    with pytest.raises(ValueError, match=r"label policy differs: 'not recorded' in base \| 'zeros"):
        set_facts({"base": old, "sft": _declared(old)}, CHEXPERT14)


def test_every_difference_is_listed_once_with_both_values_and_the_way_out(make_arm) -> None:
    arm = make_arm(0.5)
    other = [
        *_declared([p for p in arm if p.dataset == "phantom_a"], ONES),
        *_declared([p for p in arm if p.dataset == "phantom_b"], ZEROS, "bb22"),
    ]
    with pytest.raises(ValueError, match="cannot stand in one table") as caught:
        set_facts({"base": _declared(arm), "sft": _declared(arm), "grpo": other}, CHEXPERT14)
    lines = str(caught.value).splitlines()
    assert lines[1:3] == [
        f"  phantom_a: label policy differs: '{ZEROS}' in base, sft | '{ONES}' in grpo",
        "  phantom_b: manifest content differs: 'aa11' in base, sft | 'bb22' in grpo",
    ]
    assert len(lines) == 4
    assert lines[3].startswith("evaluate these arms anew on one data config")


def test_one_arm_made_of_two_policies_is_refused(make_arm) -> None:
    rows = _declared(make_arm(0.5))
    with pytest.raises(ValueError, match=r"phantom_a: label policy differs: .* in base \| .* in base"):
        set_facts({"base": [replace(rows[0], policy=ONES), *rows[1:]]}, CHEXPERT14)


@pytest.mark.parametrize(
    "change", [{"truth": ()}, {"labelled": CHEXPERT14.labels[:13]}], ids=["truth", "judged labels"]
)
def test_another_truth_or_label_list_under_one_declaration_is_refused(make_arm, change) -> None:
    rows = [replace(p, truth=("Edema",)) for p in _declared(make_arm(0.5)) if p.dataset == "phantom_a"]
    other = [replace(rows[0], **change), *rows[1:]]
    message = r"phantom_a: base and sft hold another truth or other judged labels for 1 studies: phantom_a:s0"
    with pytest.raises(ValueError, match=message):
        set_facts({"base": rows, "sft": other}, CHEXPERT14)
