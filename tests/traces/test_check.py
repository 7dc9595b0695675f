"""Answers to learn from: the fit ones pass, and all faults of the others are told in one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import Grammar, format_answer
from chexreason.prompts import load_prompt
from chexreason.traces.answer_faults import check_answers
from chexreason.traces.template import ARMS, TemplateTeacher
from chexreason.types import Sample, Study

FOLDER = Path(__file__).parents[2] / "conf" / "prompt"


def sample(number: int, positive: list[str], answer: str | None) -> Sample:
    study = Study(f"x/{number}", "x/p", "x", Path("x.png"), CHEXPERT14.encode(positive), (True,) * 14)
    return Sample(study, "", answer)


@pytest.mark.parametrize("name", ARMS)
def test_the_template_teachers_answers_are_fit(name: str) -> None:
    prompt = load_prompt(name, FOLDER)
    bare = [sample(0, ["Edema", "Support Devices"], None), sample(1, ["No Finding"], None)]
    taught = [Sample(s.study, "", TemplateTeacher().write(s.study, prompt, CHEXPERT14)) for s in bare]
    check_answers([*bare, *taught], CHEXPERT14, prompt.grammar)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", r"broken form \(no_think\): 1, e.g. x/0 ''"),
        ("<think>a</think><solution>Edema", r"broken form \(unclosed_solution\): 1"),
        ("<think> \n</think><solution>Edema</solution>", "empty reasoning: 1, e.g. x/0"),
        ("Well: <think>a</think><solution>Edema</solution>", "text outside the blocks: 1"),
        ("<think>a</think><solution>Edema, Oedema</solution>", r"unknown or repeated labels: 1, e.g. x/0 \['Oedema'\]"),
        ("<think>a</think><solution>Edema, edema</solution>", r"unknown or repeated labels: 1, e.g. x/0 \['edema'\]"),
        ("<think>a</think><solution>Fracture</solution>", "says Fracture where the study has Edema"),
    ],
)
def test_a_fault_is_told_with_its_study(answer: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check_answers([sample(0, ["Edema"], answer)], CHEXPERT14, "think_solution")


def test_labels_that_the_source_does_not_judge_are_a_disagreement() -> None:
    study = Study("x/0", "x/p", "x", Path("x.png"), CHEXPERT14.encode(["Edema"]), CHEXPERT14.encode(["Edema"]))
    with pytest.raises(ValueError, match="says Edema, Fracture where the study has Edema"):
        check_answers([Sample(study, "", "<solution>Edema, Fracture</solution>")], CHEXPERT14, "solution_only")


def test_all_kinds_of_fault_are_listed_once_with_counts_and_first_examples() -> None:
    wrong = format_answer("a", ["Fracture"])
    samples = [sample(n, ["Edema"], wrong if n < 50 else "") for n in range(60)]
    samples += [sample(n, ["Edema"], format_answer("a", ["Edema"])) for n in range(60, 70)]
    with pytest.raises(ValueError, match="70 looked at") as caught:
        check_answers(samples, CHEXPERT14, Grammar.THINK_SOLUTION)
    message = str(caught.value)
    assert "labels that disagree with the study: 50, e.g. x/0 " in message
    assert "broken form (no_think): 10, e.g. x/50 " in message
    assert ("x/2 " in message, "x/3 " in message) == (True, False)
    assert len(message.splitlines()) == 4
