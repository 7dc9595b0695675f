"""The rules for a trace and for answers to learn from: what is wrong is found, and honest radiology passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import AnswerFormat, Grammar, format_answer
from chexreason.prompts import load_prompt
from chexreason.traces.answer_faults import check_answers
from chexreason.traces.ask import Reply
from chexreason.traces.template import ARMS, TemplateTeacher
from chexreason.traces.verify import verify
from chexreason.types import Sample, Study

FOLDER = Path(__file__).parents[2] / "conf" / "prompt"
DISEASES = [label for label in CHEXPERT14 if label != "No Finding"]
SENTENCES = yaml.safe_load(Path(__file__).with_name("sentences.yaml").read_text(encoding="utf-8"))
FORMAT = AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION)
FILLER = "The trachea is in the midline and the hila are of the usual size. "


def study(*positive: str) -> Study:
    return Study("x/0", "x/p", "x", Path("x.png"), CHEXPERT14.encode(positive), (True,) * 14, view="PA")


def broken(think: str, *positive: str, words: tuple[int, int] = (1, 400)) -> list[str]:
    answer = format_answer(think, [label for label in CHEXPERT14 if label in positive])
    return [fault.rule for fault in verify(Reply(answer), study(*positive), FORMAT, words)]


@pytest.mark.parametrize(
    ("rule", "said"), [(rule, said) for rule, group in SENTENCES["broken"].items() for said in group]
)
def test_what_betrays_the_answer_or_is_invented_is_found(rule: str, said: str) -> None:
    assert broken(FILLER + said, "Cardiomegaly") == [rule]


def test_a_prior_film_that_is_denied_does_not_hide_what_follows() -> None:
    said = "No prior study was given, but compared with the previous radiograph of 03/14/2019 the heart is enlarged."
    assert broken(FILLER + said, "Cardiomegaly") == ["invents a prior exam", "invents a date"]


@pytest.mark.parametrize("said", SENTENCES["honest"])
def test_honest_radiology_passes(said: str) -> None:
    assert broken(f"{FILLER}{said} The heart is enlarged.", "Cardiomegaly") == []


@pytest.mark.parametrize(
    ("kind", "label", "said"),
    [(kind, label, s) for kind in ("affirmed", "denied") for label, group in SENTENCES[kind].items() for s in group],
)
def test_every_finding_needs_a_sign_that_is_affirmed(kind: str, label: str, said: str) -> None:
    found = broken(f"The trachea is in the midline. {said}", label)
    assert found == (["sign missing"] if kind == "denied" else [])


DRESSES = {
    "narrow spaces, unbroken hyphens": {" ": "\u202f", "-": "\u2011", "'": "\u2019"},
    "two spaces, dashes": {" ": "\u00a0\u2009", "-": "\u2013"},
    "invisible characters": {"e": "e\u200b", "a": "\u00ada", " ": "\u2060 ", "5": "5\ufeff"},
    "full width": {chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F) if chr(c) not in "<>"} | {" ": "\u3000"},
}


@pytest.mark.parametrize("dress", DRESSES)
def test_no_rule_depends_on_the_characters_that_a_text_is_dressed_in(dress: str) -> None:
    said = [s for kind in ("affirmed", "denied") for label, group in SENTENCES[kind].items() for s in group]
    said += [s for group in SENTENCES["broken"].values() for s in group] + SENTENCES["honest"]
    for one in said:
        text = f"{FILLER}{one}"
        assert broken(text.translate(str.maketrans(DRESSES[dress])), *DISEASES) == broken(text, *DISEASES), one


@pytest.mark.parametrize(
    ("think", "label", "rules"),
    [
        ("This 65\u2011year\u2011old has edema.", "Edema", ["invents a person"]),
        ("There is a ground\u2011glass haze.", "Lung Opacity", []),
        ("There is no\nedema in the lungs.", "Edema", ["sign missing"]),  # a line that is only broken
        ("The history\nof the lungs shows edema.", "Edema", ["invents a person"]),
        ("1. Quality: normal for age\n2. Edema of the lungs.", "Edema", []),
        ("\u200b\ufeff", "Edema", ["form"]),
    ],
)
def test_a_text_is_read_as_it_is_seen(think: str, label: str, rules: list[str]) -> None:
    assert broken(think, label) == rules


def test_a_fault_quotes_the_text_as_it_was_written() -> None:
    old = "65\u2011year\u2011old\u200b \u201cpatient\u201d"
    think = f"No prior film is there. The o\ufb03ce says: a {old} \u2009with edema today."
    found = verify(Reply(format_answer(think, ["Edema"])), study("Edema"), FORMAT, (1, 99))
    quoted = {fault.rule: fault.detail for fault in found}
    assert quoted["invents a person"] == f"'The o\ufb03ce says: a {old} with edem'"
    assert all(" ".join(think.split()).find(detail.strip("'")) > 0 for detail in quoted.values())


@pytest.mark.parametrize(
    ("think", "wrong"),
    [
        ("Das Herz ist vergrößert und die Lunge ist nicht belüftet, cardiomegaly.", True),
        ("El corazón es grande y los pulmones están claros, cardiomegaly.", True),
        ("Le coeur est large et la plèvre est normale, cardiomegaly.", True),
        ("心脏增大 cardiomegaly 肺部清晰", True),
        ("4. Heart: marked cardiomegaly.\n5. Volumes: no atelectasis.\n6. Airspaces: clear.", False),
    ],
)
def test_another_language_is_found(think: str, wrong: bool) -> None:
    assert broken(think, "Cardiomegaly") == (["language"] if wrong else [])


def test_the_reasoning_keeps_to_its_length() -> None:
    assert broken("There is edema.", "Edema", words=(4, 9)) == ["too short"]
    assert broken("There is edema. " * 4, "Edema", words=(4, 9)) == ["too long"]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(DISEASES), max_size=6), st.integers(0, 99), st.sampled_from(ARMS))
def test_the_template_teacher_passes_every_rule(positive: set[str], seed: int, arm: str) -> None:
    one, prompt = study(*(positive or {"No Finding"})), load_prompt(arm, FOLDER)
    text = TemplateTeacher(seed).write(one, prompt, CHEXPERT14)
    assert verify(Reply(text), one, prompt.answer_format(CHEXPERT14), (30, 200)) == []


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=300), st.sampled_from(DISEASES))
def test_no_text_breaks_it(text: str, label: str) -> None:
    verify(Reply(text), study(label), FORMAT, (1, 9))
    answer = Reply(f"<think>{text}</think><solution>{label}</solution>")
    verify(answer, study(label), FORMAT, (1, 9))


def sample(number: int, positive: list[str], answer: str | None) -> Sample:
    """One whose source judges every label but Pneumonia."""
    judged = tuple(label != "Pneumonia" for label in CHEXPERT14)
    return Sample(Study(f"x/{number}", "x/p", "x", Path("x.png"), CHEXPERT14.encode(positive), judged), "", answer)


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
        ("<think>a</think><solution>Edema, Pneumonia</solution>", "says Edema, Pneumonia where the study has Edema"),
    ],
)
def test_a_fault_is_told_with_its_study(answer: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check_answers([sample(0, ["Edema"], answer)], FORMAT)


def test_all_kinds_of_fault_are_listed_once_with_counts_and_first_examples() -> None:
    wrong = format_answer("a", ["Fracture"])
    samples = [sample(n, ["Edema"], wrong if n < 50 else "") for n in range(60)]
    samples += [sample(n, ["Edema"], format_answer("a", ["Edema"])) for n in range(60, 70)]
    samples.append(sample(70, ["Edema"], None))  # has no answer: is not looked at
    with pytest.raises(ValueError, match="70 looked at") as caught:
        check_answers(samples, FORMAT)
    message = str(caught.value)
    assert "labels that disagree with the study: 50, e.g. x/0 " in message
    assert "broken form (no_think): 10, e.g. x/50 " in message
    assert ("x/2 " in message, "x/3 " in message) == (True, False)
    assert len(message.splitlines()) == 4
