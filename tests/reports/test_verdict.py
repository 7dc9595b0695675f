from __future__ import annotations

import copy

import pytest

from chexreason.reports.study_tables import TWIN, point_tables
from chexreason.reports.verdict import verdict


def _figures(home: tuple[float | None, ...], away: tuple[float | None, ...], floor: float = 0.1) -> dict:
    def change(interval: tuple[float | None, ...]) -> dict:
        value, low, high = interval
        return {"macro_f1": {"value": value, "low": low, "high": high, "relative": 0.1}}

    def score(value: float) -> dict:
        return {"macro_f1": {"value": value, "low": value - 0.05, "high": value + 0.05}, "fail_rate": {"value": 0.0}}

    arm = {"a": score(0.4), "b": score(0.4)}
    trivial = {"nothing": 0.0, "all_labels": floor}
    figures = {
        "arms": {"sft": arm, "grpo": arm},
        "trivial": {row: {"a": {"macro_f1": value}, "b": {"macro_f1": value}} for row, value in trivial.items()},
        "paired": {"sft__grpo": {"a": change(home), "b": change(away)}},
    }
    labels = ["Edema", "Fracture"]
    common = copy.deepcopy(figures) | {"labels": labels}
    return {**figures, "common": common, "sets": {"a": {"labels": labels}, "b": {"labels": labels}}}


GAIN, LOSS, UNCLEAR = (0.1, 0.05, 0.15), (-0.1, -0.15, -0.05), (0.01, -0.05, 0.07)


@pytest.mark.parametrize(
    ("home", "away", "expected"),
    [
        (GAIN, LOSS, "That is the pattern the paper reports"),
        (GAIN, GAIN, "Unlike in the paper, the gain of GRPO at a carries over."),
        (GAIN, UNCLEAR, "does not clearly carry over, nor is a loss elsewhere established"),
        (UNCLEAR, LOSS, "that the paper reports is not established here"),
        (LOSS, GAIN, "that the paper reports is not established here"),
    ],
)
def test_the_papers_pattern_is_claimed_only_by_intervals(home: tuple, away: tuple, expected: str) -> None:
    assert expected in " ".join(verdict(_figures(home, away)))


@pytest.mark.parametrize(
    ("c", "d", "expected"),
    [
        (LOSS, LOSS, "That is the pattern the paper reports: GRPO gains at a and loses elsewhere."),
        (GAIN, LOSS, "That is the pattern the paper reports: GRPO gains at a and loses at b and d only."),
    ],
)
def test_of_several_hospitals_the_one_that_loses_is_named(c: tuple, d: tuple, expected: str) -> None:
    assert expected in verdict(_several(LOSS, c, d))


def test_of_several_hospitals_the_one_that_gains_is_named() -> None:
    assert "Unlike in the paper, the gain of GRPO at a carries over to c only." in verdict(
        _several(UNCLEAR, GAIN, UNCLEAR)
    )


def _several(*away: tuple) -> dict:
    """Figures with the hospitals b, c and d beside a."""
    figures = _figures(GAIN, away[0])
    for part in (figures, figures["common"]):
        for name, change in zip("cd", away[1:], strict=True):
            for by_set in (*part["trivial"].values(), figures["arms"]["sft"], part["arms"]["sft"]):
                by_set[name] = by_set["b"]
            part["paired"]["sft__grpo"][name] = _figures(GAIN, change)["paired"]["sft__grpo"]["b"]
    figures["sets"] |= dict.fromkeys("cd", figures["sets"]["b"])
    return figures


def test_changes_are_worded_by_their_intervals() -> None:
    assert verdict(_figures(GAIN, UNCLEAR))[2] == (
        "Compared with SFT, GRPO gains macro-F1 at a (+0.100 [+0.050, +0.150], +10%), "
        "but shows no clear change at b (+0.010 [-0.050, +0.070], +10%)."
    )


def test_an_undefined_interval_claims_nothing() -> None:
    assert "unknown precision at a (+0.100, +10%)" in verdict(_figures((0.1, None, None), GAIN))[2]


@pytest.mark.parametrize("away", [GAIN, LOSS, UNCLEAR])
@pytest.mark.parametrize("where", ["own labels at home", "own labels away", "common labels"])
def test_nothing_is_said_of_transfer_where_a_constant_answer_is_better(where: str, away: tuple) -> None:
    figures = _figures(GAIN, away)
    figures["arms"] = {arm: copy.deepcopy(scores) for arm, scores in figures["arms"].items()}
    place, low = ("a", figures) if where.endswith("home") else ("b", figures)
    low = figures["common"] if where == "common labels" else low
    low["trivial"]["all_labels"][place]["macro_f1"] = 0.41
    said = verdict(figures)
    text = " ".join(said)
    assert f"GRPO is below the best trivial answer at {place}: its changes there are no evidence" in text
    assert not any(words in text for words in ("carries over", "carry over", "pattern the paper", "not established"))
    if low is figures:  # the test of all arms comes before any change is spoken of
        assert said[0 if place == "a" else 1].startswith(f"At {place}, SFT (0.400) and GRPO (0.400) are below the best")
    assert said[2].startswith("Compared with SFT")


def test_changes_are_of_the_labels_that_all_sets_judge() -> None:
    figures = _figures(GAIN, LOSS)
    figures["sets"]["a"]["labels"] = ["Edema", "Fracture", "Pneumonia"]
    figures["common"]["paired"]["sft__grpo"]["a"]["macro_f1"] |= {"value": 0.02, "low": -0.01, "high": 0.05}
    said = verdict(figures)
    assert said[2] == "Changes are of the macro-F1 over the 2 labels that all of a and b judge: Edema, Fracture."
    assert "shows no clear change at a (+0.020 [-0.010, +0.050]" in said[3]
    assert "that the paper reports is not established here" in said[4]
    figures["common"] = {"labels": [], "arms": {}, "trivial": {}, "paired": {}}
    assert verdict(figures)[2:] == ["No label is judged by all of a and b: changes between them are not compared."]


@pytest.mark.parametrize(
    ("floor", "expected"),
    [(0.5, "are below"), (0.38, "are not clearly above"), (0.1, "every arm is clearly above")],
)
def test_trivial_rows_are_named(floor: float, expected: str) -> None:
    text = " ".join(verdict(_figures(GAIN, GAIN, floor)))
    assert f"{expected} the best trivial answer, all_labels ({floor:.3f})" in text


def test_an_arm_that_finds_nothing_is_not_above_answering_nothing() -> None:
    figures = _figures(GAIN, GAIN, floor=0.0)
    score = {"value": 0.0, "low": 0.0, "high": 0.4}  # no label is positive there, and all score 0
    figures["arms"]["sft"]["a"]["macro_f1"] |= score
    assert "At a, SFT (0.000) and GRPO (0.000) are not clearly above the best trivial answer" in verdict(figures)[0]


def test_reward_and_unreadable_answers_are_told() -> None:
    figures = _figures(GAIN, GAIN)
    figures["arms"]["sft"]["a"]["fail_rate"]["value"] = 0.25
    part, flat = {"value": 0.2}, {"value": 0.0, "low": -1.0, "high": 1.0}
    figures["grpo"] = {"reward": {"first_fifth": part, "last_fifth": part, "difference": flat}}
    figures["grpo"]["reward"]["patients"] = {"first_fifth": 9, "last_fifth": 8, "both": 7}
    text = " ".join(verdict(figures))
    assert "25% of SFT at a" in text
    assert "The training reward does not clearly move from 0.2" in text
    assert "7 of its 8 patients were in the first" in text


@pytest.mark.parametrize(
    ("skill", "auroc", "constant", "words"),
    [
        ((0.2, 0.1, 0.3), (0.7, 0.6, 0.8), 0.2, "SFT 0.400, +0.200 [+0.100, +0.300] beyond its twin."),
        ((0.01, -0.1, 0.1), (0.7, 0.6, 0.8), 0.2, "which is not above its twin."),
        ((0.2, 0.1, 0.3), (0.51, 0.48, 0.54), 0.2, "beyond its twin; it ranks no better than chance (AUROC 0.510)."),
        ((0.2, 0.1, 0.3), (0.7, 0.6, 0.8), 0.5, "beyond its twin; answering all labels scores as well (0.500)."),
    ],
)
def test_a_cut_is_told_with_its_twin(skill: tuple, auroc: tuple, constant: float, words: str) -> None:
    figures = _figures(GAIN, GAIN)
    same = {name: _interval(0.1) for name in ("micro_f1", "jaccard", "calls", "false_alarms")}
    f1 = {name: {"macro_f1": _interval(v), **same} for name, v in (("own", 0.3), ("cut", 0.4), (TWIN, 0.2))}
    place = {**f1, "all labels": {"macro_f1": _interval(constant)}, "auroc": _interval(*auroc)}
    place[f"skill above {TWIN}"] = {"macro_f1": _interval(*skill)}
    figures["points"] = {"sft": {"home": "a", "target": "f1", "places": {"a": place}}}
    told = [sentence for sentence in verdict(figures) if "cuts of home" in sentence]
    assert len(told) == 1
    assert told[0].startswith("At a, macro-F1 at cuts of home validation films is: ")
    assert told[0].endswith(words)
    (table,) = point_tables(figures).values()
    assert [str(row[0]) for row in table.rows] == ["SFT, own answers", "SFT, cut", "SFT, cut, no film"]
    assert "no film" in " ".join(table.notes).lower()
    del figures["points"]
    assert not [sentence for sentence in verdict(figures) if "twin" in sentence]


def _interval(value: float, low: float | None = None, high: float | None = None) -> dict:
    return {"value": value, "low": low, "high": high}
