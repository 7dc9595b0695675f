from __future__ import annotations

import json

import pytest

from chexreason.rewards.collapse import CollapseWindow, dominance


def test_charges_by_hand() -> None:
    window = CollapseWindow(size=10, dominance=0.7, per_excess=30, base=50, cap=None)
    # 7 of 7 answers hold Edema: at the limit, not above it.
    assert window([["Edema"]] * 7) == [0.0] * 7
    assert window.excess() == {}
    # The 8th passes it: 50 + 30 * 1. An answer without Edema is free.
    assert window([["Edema"], ["Fracture"]]) == [80.0, 0.0]
    # 10 of the last 10: 50 + 30 * 3.
    assert window([["Edema"]] * 10) == [140.0] * 10
    # Ten others push every Edema out; the newcomers dominate now.
    assert window([["Fracture"]] * 10) == [140.0] * 10
    assert window([["Edema"]]) == [0.0]


def test_paper_numbers_of_a_full_window() -> None:
    window = CollapseWindow(cap=None)
    assert window([["No Finding"]] * 70 + [["Edema"]] * 30) == [0.0] * 100
    assert window([["No Finding"]] * 100) == [50.0 + 30.0 * 30] * 100


def test_a_whole_call_enters_before_it_is_judged() -> None:
    """Equal answers of one group are charged equally, wherever they stand; a cap bounds one answer."""
    batch = [["Edema"]] * 9 + [["Fracture"]]
    charged = [50 + 30 * 2.0] * 9 + [0.0]
    assert CollapseWindow(size=10, cap=None)(batch) == charged
    assert CollapseWindow(size=10, cap=None)(batch[::-1]) == charged[::-1]
    assert CollapseWindow(size=10, cap=90)(batch) == [90.0] * 9 + [0.0]
    one_by_one = CollapseWindow(size=10, cap=None)
    assert [one_by_one([["Edema"]])[0] for _ in range(9)] == [0.0] * 7 + [80.0, 110.0]


def test_with_several_dominating_labels_the_worst_counts_once() -> None:
    window = CollapseWindow(size=10, cap=None)
    charges = window([["Edema", "Fracture"]] * 8 + [["Edema"]] * 2)
    assert window.excess() == {"Edema": 3, "Fracture": 1}
    assert charges == [140.0] * 10


def test_a_repeated_label_counts_once_and_empty_answers_never() -> None:
    batch = [["Edema", "Edema"]] * 5 + [[]] * 5
    assert CollapseWindow(size=10)(batch) == [0.0] * 10
    assert batch == [["Edema", "Edema"]] * 5 + [[]] * 5


@pytest.mark.parametrize(("size", "dominance", "limit"), [(100, 0.7, 70), (100, 0.29, 29), (10, 0.75, 7), (3, 0.5, 1)])
def test_limit_is_whole_predictions(size: int, dominance: float, limit: int) -> None:
    assert CollapseWindow(size=size, dominance=dominance).limit == limit


@pytest.mark.parametrize(("size", "dominance"), [(0, 0.7), (10, 0.0), (10, 1.0)])
def test_impossible_windows_are_refused(size: int, dominance: float) -> None:
    with pytest.raises(ValueError, match=f"size {size} at dominance {dominance}"):
        CollapseWindow(size=size, dominance=dominance)


def test_resume_is_exact() -> None:
    batches = [[["Edema"]] * 6 + [["Fracture", "Edema"]], [["Edema"]] * 4, [["Fracture"]] * 9, [["Edema"], []] * 4]
    straight = CollapseWindow(size=10)
    expected = [straight(batch) for batch in batches]
    first = CollapseWindow(size=10)
    got = [first(batch) for batch in batches[:2]]
    saved = json.loads(json.dumps(first.state_dict()))
    second = CollapseWindow(size=10)
    second.load_state_dict(saved)
    assert got + [second(batch) for batch in batches[2:]] == expected
    assert second.state_dict() == straight.state_dict()
    with pytest.raises(ValueError, match="window of 10 predictions, but size is 5"):
        CollapseWindow(size=5).load_state_dict(second.state_dict())  # not cut silently


def test_dominance_counts_an_answer_once_a_label() -> None:
    assert dominance([["Edema", "Edema"], ["Edema", "Fracture"], [], ["Fracture"]]) == 0.5
    assert dominance([]) == dominance([[]]) == 0.0
