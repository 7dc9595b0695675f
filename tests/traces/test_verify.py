"""The rules for a trace: what gives the answer away or is made up is found, and honest radiology passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import format_answer
from chexreason.prompts import load_prompt
from chexreason.traces import lexicon
from chexreason.traces.ask import Reply
from chexreason.traces.template import ARMS, TemplateTeacher
from chexreason.traces.verify import RULES, verify
from chexreason.types import Study

FOLDER = Path(__file__).parents[2] / "conf" / "prompt"
DISEASES = [label for label in CHEXPERT14 if label != "No Finding"]
FILLER = "The trachea is in the midline and the hila are of the usual size. "


def study(*positive: str) -> Study:
    return Study("x/0", "x/p", "x", Path("x.png"), CHEXPERT14.encode(positive), (True,) * 14, view="PA")


def broken(think: str, *positive: str, words: tuple[int, int] = (1, 400)) -> list[str]:
    answer = format_answer(think, [label for label in CHEXPERT14 if label in positive])
    return [fault.rule for fault in verify(Reply(answer), study(*positive), CHEXPERT14, "think_solution", words)]


@pytest.mark.parametrize(
    "said",
    [
        "As provided, the heart is enlarged.",
        "The label says cardiomegaly, and the heart is enlarged.",
        "The given findings include an enlarged heart.",
        "Based on the labels, the heart is enlarged.",
        "The ground truth is an enlarged heart.",
        "I was told that the heart is enlarged.",
        "The heart is enlarged, consistent with the provided diagnosis.",
        "The correct answer is an enlarged heart.",
        "As the user says, the heart is enlarged.",
        "The heart is enlarged; this matches the annotation.",
    ],
)
def test_what_gives_the_answer_away_is_found(said: str) -> None:
    assert broken(FILLER + said, "Cardiomegaly") == ["betrays the answer"]


@pytest.mark.parametrize(
    "said",
    [
        "Compared with the prior film, the heart is enlarged.",
        "The heart is enlarged, unchanged.",
        "The heart is stable and enlarged.",
        "There is interval increase of the heart, which is enlarged.",
        "The heart is enlarged and has increased in size.",
        "There is an enlarged heart and a new opacity.",
        "The heart is again seen enlarged.",
        "Since the previous examination the heart is enlarged.",
    ],
)
def test_a_prior_examination_that_is_not_there_is_found(said: str) -> None:
    assert broken(FILLER + said, "Cardiomegaly") == ["invents a prior exam"]


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ("The film of 03/14/2019 shows an enlarged heart.", "invents a date"),
        ("The heart is enlarged since 2017.", "invents a date"),
        ("On March 3 the heart is enlarged.", "invents a date"),
        ("The heart is enlarged, 4 weeks ago it measured less.", "invents a date"),
        ("Dr. Smith sees an enlarged heart.", "invents a person"),
        ("This 65-year-old man has an enlarged heart.", "invents a person"),
        ("The patient has a history of an enlarged heart.", "invents a person"),
        ("Mr. Jones has an enlarged heart.", "invents a person"),
        ("The heart is enlarged, as [** Name **] says.", "invents a person"),
    ],
)
def test_an_invented_date_or_person_is_found(said: str, rule: str) -> None:
    assert broken(FILLER + said, "Cardiomegaly") == [rule]


@pytest.mark.parametrize(
    "said",
    [
        "The heart is enlarged, and wires of a prior sternotomy overlie it.",
        "There is no prior study for comparison. The heart is enlarged.",
        "The cardiothoracic ratio is 0.58, so that the heart is enlarged.",
        "The heart may be enlarged by 20 % on this AP view.",
        "The side marker labels the patient's left. The heart is enlarged.",
        "An old rib deformity is seen, and the heart is enlarged.",
        "Given the width of the heart, which is enlarged, I look at the vessels.",
        "Signs known from textbooks, such as Kerley lines, are absent. The heart is enlarged.",
        "The heart is enlarged. The intercostal intervals are equal.",
        "The left border is provided by the left ventricle, and the heart is enlarged.",
    ],
)
def test_honest_radiology_passes(said: str) -> None:
    assert broken(FILLER + said, "Cardiomegaly") == []


@pytest.mark.parametrize(
    ("said", "positive", "missing"),
    [
        ("The costophrenic angle is blunted.", "Pleural Effusion", False),
        ("There is no effusion and the angles are sharp.", "Pleural Effusion", True),
        ("No effusion is seen on the left, but the right angle is blunted.", "Pleural Effusion", False),
        ("Pleural fluid is not seen.", "Pleural Effusion", True),
        ("An effusion is unlikely.", "Pleural Effusion", True),
        ("10. Pleura: effusion on the left; no pneumothorax.", "Pleural Effusion", False),
        ("10. Effusion: absent.", "Pleural Effusion", True),
        ("A pleural line is seen without lung markings beyond it.", "Pneumothorax", False),
        ("There is no abnormality.", "No Finding", False),
        ("The lungs are dense.", "No Finding", True),
        ("A tube ends above the carina.", "Support Devices", False),
    ],
)
def test_every_finding_needs_a_sign_that_is_affirmed(said: str, positive: str, missing: bool) -> None:
    assert broken(f"The trachea is in the midline. {said}", positive) == (["sign missing"] if missing else [])


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


def test_length_form_and_refusal() -> None:
    one = study("Edema")
    assert broken("There is edema.", "Edema", words=(4, 9)) == ["too short"]
    assert broken("There is edema. " * 4, "Edema", words=(4, 9)) == ["too long"]
    cases = {
        "refused": Reply("I cannot", refused=True),
        "empty": Reply(" \n"),
        "cut off": Reply("<think>The", cut=True),
        "form": Reply("Edema"),
    }
    for rule, reply in cases.items():
        assert [fault.rule for fault in verify(reply, one, CHEXPERT14, "think_solution", (1, 9))] == [rule]
    found = verify(Reply("<solution>Fracture</solution>"), one, CHEXPERT14, "solution_only", (1, 9))
    assert [(fault.rule, fault.detail) for fault in found] == [("labels", "says Fracture where the study has Edema")]


def test_every_label_has_signs_and_every_rule_words() -> None:
    assert set(lexicon.SIGNS) == set(CHEXPERT14)
    assert all(RULES.values())


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(DISEASES), max_size=6), st.integers(0, 99), st.sampled_from(ARMS))
def test_the_template_teacher_passes_every_rule(positive: set[str], seed: int, arm: str) -> None:
    one, prompt = study(*(positive or {"No Finding"})), load_prompt(arm, FOLDER)
    text = TemplateTeacher(seed).write(one, prompt, CHEXPERT14)
    assert verify(Reply(text), one, CHEXPERT14, prompt.grammar, (30, 200)) == []


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=300), st.sampled_from(DISEASES))
def test_no_text_breaks_it(text: str, label: str) -> None:
    verify(Reply(text), study(label), CHEXPERT14, "think_solution", (1, 9))
    answer = Reply(f"<think>{text}</think><solution>{label}</solution>")
    verify(answer, study(label), CHEXPERT14, "think_solution", (1, 9))
