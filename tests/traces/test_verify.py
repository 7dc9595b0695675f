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
from chexreason.traces.verify import TRACE_RULES, verify
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
        "According to the findings, the heart is enlarged.",
        "As per the findings, the heart is enlarged.",
        "Based on the findings provided, the heart is enlarged.",
        "Given the diagnosis of an enlarged heart, I look at the vessels.",
        "In line with the solution, the heart is enlarged.",
        "The findings given to me include an enlarged heart.",
        "The listed findings include an enlarged heart.",
        "The stated diagnosis is an enlarged heart.",
        "The expected finding is an enlarged heart.",
        "The true findings are an enlarged heart.",
        "The correct diagnosis is an enlarged heart.",
        "The provided information points to an enlarged heart.",
        "The information given suggests an enlarged heart.",
        "The findings that apply are an enlarged heart.",
        "The findings to be reported are an enlarged heart.",
        "The findings state that the heart is enlarged.",
        "As stated, the heart is enlarged.",
        "As mentioned in the task, the heart is enlarged.",
        "The task says that the heart is enlarged.",
        "The solution should list an enlarged heart.",
        "The answer must be an enlarged heart.",
        "The report describes an enlarged heart.",
        "The question states that the heart is enlarged.",
        "Only cardiomegaly was specified.",
        "Cardiomegaly is listed, so I look at the heart.",
        "It is given that the heart is enlarged.",
        "Since the label is cardiomegaly, I look at the heart.",
        "The pupil will see an enlarged heart.",
        "I am supposed to find an enlarged heart.",
        "I\u2019m told that the heart is enlarged.",
        "An enlarged heart was given to me.",
        "I should list an enlarged heart.",
        "Knowing that there is cardiomegaly, I look at the heart.",
        "Cardiomegaly is known to be present.",
        "The image was labeled as having an enlarged heart.",
        "There is no prior film for comparison, so I rely on the provided labels: the heart is enlarged.",
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
        "The previously noted enlarged heart is seen.",
        "The enlarged heart is larger than before.",
        "The heart is enlarged and has increased.",
        "The heart has increased slightly and is enlarged.",
        "The heart is enlarged with worsening congestion.",
        "The effusion is no longer seen, and the heart is enlarged.",
        "The heart is enlarged, and an effusion is new.",
        "The heart is enlarged with no change from the prior film.",
        "On this follow-up film the heart is enlarged.",
        "Since the first film the heart is enlarged.",
    ],
)
def test_a_prior_examination_that_is_not_there_is_found(said: str) -> None:
    assert broken(FILLER + said, "Cardiomegaly") == ["invents a prior exam"]


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ("The film of 12-03-2019 shows an enlarged heart.", "invents a date"),
        ("The film, 2019/03/14, shows an enlarged heart.", "invents a date"),
        ("The film of 12-Mar-2019 shows an enlarged heart.", "invents a date"),
        ("On May 3 the heart is enlarged.", "invents a date"),
        ("The heart is enlarged since March.", "invents a date"),
        ("The heart is enlarged since early 2018.", "invents a date"),
        ("Two weeks ago the enlarged heart measured less.", "invents a date"),
        ("Over the past two weeks the heart became enlarged.", "invents a date"),
        ("This morning the heart is enlarged.", "invents a date"),
        ("On Monday the heart is enlarged.", "invents a date"),
        ("Dr Smith sees an enlarged heart.", "invents a person"),
        ("This 67yo man has an enlarged heart.", "invents a person"),
        ("This 67-y/o man has an enlarged heart.", "invents a person"),
        ("This 67 y.o. man has an enlarged heart.", "invents a person"),
        ("This seventy-year-old man has an enlarged heart.", "invents a person"),
        ("This man, aged 67, has an enlarged heart.", "invents a person"),
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


def test_a_prior_film_that_is_denied_does_not_hide_what_follows() -> None:
    said = "No prior study was given, but compared with the previous radiograph of 03/14/2019 the heart is enlarged."
    assert broken(FILLER + said, "Cardiomegaly") == ["invents a prior exam", "invents a date"]


@pytest.mark.parametrize(
    "said",
    [
        "Wires of a prior sternotomy overlie it.",
        "There is no prior study for comparison.",
        "No prior study is available for comparison.",
        "No earlier radiograph was given.",
        "In the absence of prior films I read this one alone.",
        "Prior studies are not available.",
        "Comparison with prior studies is not possible.",
        "Comparison with prior studies would help.",
        "From the frontal radiograph, the heart is wide.",
        "A follow-up radiograph is advised.",
        "The diaphragm can no longer be traced.",
        "The previously placed tube is seen.",
        "The tip lies outside the image.",
        "The left lower zone has increased opacity.",
        "The left lower zone has markedly decreased volume.",
        "The cardiothoracic ratio is 0.58.",
        "The heart may be enlarged by 20 % on this AP view.",
        "The lung volumes are decreased. 8 posterior ribs are seen.",
        "The margin 2 cm above the diaphragm is sharp.",
        "Ribs 4 to 8 margins are sharp.",
        "6. Left margin. 7. Hila: of the usual size.",
        "Rib 8 may be broken.",
        "The side marker labels the patient's left.",
        "An old rib deformity is seen.",
        "Given the width of the heart, I look at the vessels.",
        "Given the findings above, heart failure is likely.",
        "Given the finding of a wide heart, I look for edema.",
        "Based on these findings, heart failure is likely.",
        "The findings are consistent with heart failure.",
        "I am cautious with these findings given the AP projection.",
        "The above-mentioned findings agree.",
        "The findings listed above agree.",
        "The expected findings of heart failure are absent.",
        "This is a true finding rather than an overlap.",
        "As mentioned above, the heart is wide.",
        "As indicated by a cardiothoracic ratio of 0.58, the heart is wide.",
        "The contour raises the question of cardiomegaly.",
        "The question is whether the film is rotated.",
        "No lateral view was provided.",
        "The projection is not specified.",
        "No clinical history is available.",
        "Without clinical information the cause stays open.",
        "Attention is given to the apices.",
        "Signs known from textbooks, such as Kerley lines, are absent.",
        "The intercostal intervals are equal.",
        "The left border is provided by the left ventricle.",
    ],
)
def test_honest_radiology_passes(said: str) -> None:
    assert broken(f"{FILLER}{said} The heart is enlarged.", "Cardiomegaly") == []


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
    assert all(TRACE_RULES.values())


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
