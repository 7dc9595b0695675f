from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.rewards.base import score
from chexreason.rewards.collapse import CollapseWindow
from chexreason.rewards.nuanced import NuancedReward
from chexreason.types import Completion, Study

LABELS = CHEXPERT14.labels
PREVALENCE = dict.fromkeys(LABELS, 0.1) | {"No Finding": 0.5, "Support Devices": 0.4}
label_sets = st.sets(st.sampled_from(LABELS))


def make(**changes: object) -> NuancedReward:
    return NuancedReward(**({"prevalence": PREVALENCE, "collapse": CollapseWindow()} | changes))  # type: ignore[arg-type]


def parts_of(completion: Completion, study: Study, **changes: object) -> dict[str, float]:
    total, parts = score(make(**changes), [completion], [study], CHEXPERT14)
    return {"total": total.item()} | {name: part.item() for name, part in parts.items()}


def test_an_exact_answer_earns_150(study: Callable, answer: Callable) -> None:
    paid = {"total": 150.0, "exact": 100.0, "partial": 50.0, "jaccard": 1.0}
    charged = dict.fromkeys(("false_positive", "collapse", "format"), 0.0)
    assert parts_of(answer("Edema", "Pneumonia"), study("Edema", "Pneumonia")) == paid | charged


def test_a_partial_answer_by_hand(study: Callable, answer: Callable) -> None:
    got = parts_of(answer("Edema", "No Finding", "Fracture", "Pneumonia"), study("Edema", "Pneumonia", "Pneumothorax"))
    # recall 2/3, precision 2/4; No Finding costs 10 + 40 * 0.5, Fracture 10 + 40 * 0.1
    assert got["partial"] == pytest.approx(30 * 2 / 3 + 20 * 2 / 4)
    assert got["false_positive"] == pytest.approx(-30 - 14)
    assert got["exact"] == got["collapse"] == got["format"] == 0.0
    assert got["jaccard"] == pytest.approx(2 / 5)
    assert got["total"] == pytest.approx(30 - 44)


def test_format_weights_and_empty_sets_by_hand(study: Callable, answer: Callable) -> None:
    flawed = answer("Edema", unknown=("Cat", "Cat"), duplicates=("edema", "EDEMA", "Edema"), stray_blocks=2)
    got = parts_of(flawed, study("Edema"))
    assert got["format"] == -2 * 100 - 3 * 25 - 2 * 10
    assert got["total"] == 150 - 295
    weights = {"exact": 0.0, "jaccard": 1.0}
    assert parts_of(answer("Edema"), study("Edema"), weights=weights)["total"] == 51.0
    for named, true, total in (((), (), 150.0), ((), ("Edema",), 0.0), (("Edema",), (), -14.0)):
        assert parts_of(answer(*named), study(*true))["total"] == pytest.approx(total)


def test_a_malformed_output_has_no_other_part_and_stays_out_of_the_window(study: Callable, answer: Callable) -> None:
    reward = make(collapse=CollapseWindow(size=10))
    flawed = {"unknown": ("Cat",), "duplicates": ("Edema",), "stray_blocks": 1, "broken": "two_solutions"}
    rows = [answer("Edema", **flawed)] * 9 + [answer("Edema")]
    total, parts = score(reward, rows, [study("Edema")] * 10, CHEXPERT14)
    assert total.tolist() == [-100.0] * 9 + [150.0]
    assert {name: part[0].item() for name, part in parts.items() if part[0]} == {"format": -100.0}
    assert parts["collapse"].tolist() == [0.0] * 10
    assert reward.state_dict() == {"collapse": {"window": [["Edema"]]}}


def test_collapse_is_charged_on_the_row_that_repeats(study: Callable, answer: Callable) -> None:
    reward = make(collapse=CollapseWindow(size=10, cap=None))
    rows = [answer("No Finding")] * 5 + [answer("Edema"), answer("Fracture", broken="x")] + [answer("No Finding")] * 4
    _, parts = score(reward, rows, [study("Edema")] * 11, CHEXPERT14)
    assert parts["collapse"].tolist() == [-110.0] * 5 + [0.0, 0.0] + [-110.0] * 4


def test_missing_or_impossible_prevalence_is_refused(study: Callable, answer: Callable) -> None:
    few = {label: 0.1 for label in LABELS if label != "Fracture"}
    with pytest.raises(ValueError, match=r"no training prevalence for \['Fracture'\], which study 's1' labels"):
        parts_of(answer("Edema"), study("Edema"), prevalence=few)
    parts_of(answer("Edema"), study("Edema", unlabelled=("Fracture",)), prevalence=few)
    with pytest.raises(ValueError, match=r"0\.\.1, not \{'Edema': 12\.0\}"):
        make(prevalence={"Edema": 12.0, "Fracture": 0.5})


@settings(max_examples=25, deadline=None)
@given(truth=label_sets, predicted=label_sets, extra=st.sampled_from(LABELS))
def test_a_further_false_positive_never_pays(
    study: Callable, answer: Callable, truth: set[str], predicted: set[str], extra: str
) -> None:
    assume(extra not in truth | predicted)
    one, more = (parts_of(answer(*p), study(*truth))["total"] for p in (predicted, predicted | {extra}))
    assert more < one
