"""The template teacher: what it writes agrees with the study, and reads back as its labels."""

from __future__ import annotations

import random
import re
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.labels.schema import LabelSet
from chexreason.parsing import parse
from chexreason.prompts import load_prompt
from chexreason.traces.sayable import CHECKLIST, FINDINGS, facts_of
from chexreason.traces.template import ARMS, FREE_WORDS, NARRATIVE_WORDS, TemplateTeacher
from chexreason.types import Sign, Study
from tools.tiny_models.captions import QUESTIONS, describe, question

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "conf" / "prompt"
PROMPTS = {path.stem: load_prompt(path.stem, FOLDER) for path in FOLDER.glob("*.yaml")}
REASONING = ["free_reasoning", "reasoning_narrative", "reasoning_a"]
DISEASES = [label for label in CHEXPERT14 if label not in {"No Finding", "Support Devices"}]

# Words that only a text about the label uses: written apart from the phrase banks, to catch a phrase gone astray.
SIGN_WORDS = {
    "Atelectasis": "atelecta|volume loss|band-like|crowded|collapse",
    "Cardiomegaly": "cardiomegaly|cardiac enlarge|enlarged heart|heart is enlarged|normal in size|half of",
    "Consolidation": "consolidat|bronchogram|airspaces in",
    "Edema": "edema|congestion|interstitial lines|thick vessels",
    "Enlarged Cardiomediastinum": "wide|widening",
    "Fracture": "fracture|broken|step in|gap in",
    "Lung Lesion": "nodule|nodular|lesion|mass|\\bround",
    "Lung Opacity": "opacit|opacif|hazy",
    "Pleural Effusion": "effusion|fluid|blunt",
    "Pleural Other": "thickening|plaque|bright band",
    "Pneumonia": "pneumonia|infect|patch",
    "Pneumothorax": "pneumothora|free air|pleural air|dark",
    "Support Devices": "device|hardware|tube|catheter",
    "No Finding": "normal chest|clear|normal anatomy|is normal[.]|normal limits|no sign of disease",
}
NEGATION = re.compile(r"\b(no|not|normal in)\b", re.IGNORECASE)
SIDE_WORDS = re.compile(r"\b(left|right|bilateral|both lungs|each side)\b", re.IGNORECASE)
UNTIDY = re.compile(r"  |[{}]| [.,;]|\b[Aa] [aeio]|\b[Aa]n [^aeio]|\bAn? an?\b")
SEVERITY_WORDS = re.compile(r"\b(mild|moderate|moderate-sized|marked|small|large)\b")


def study(
    number: int,
    positive: list[str],
    unjudged: set[str] | None = None,
    signs: tuple[Sign, ...] = (),
    labels: LabelSet = CHEXPERT14,
) -> Study:
    mask = tuple(label not in (unjudged or set()) for label in labels)
    target = tuple(t * m for t, m in zip(labels.encode(positive), mask, strict=True))
    return Study(f"x/{number}", f"x/p{number}", "x", Path("x.png"), target, mask, view="PA", signs=signs)


def random_study(number: int, with_signs: bool = True) -> Study:
    rng = random.Random(number)
    positive = rng.sample(DISEASES, rng.choice((0, 1, 1, 2, 3, 4, 6, 12))) or ["No Finding"]
    positive += ["Support Devices"] * (rng.random() < 0.4)
    unjudged = set(rng.sample(CHEXPERT14.labels, rng.choice((0, 0, 5)))) - set(positive[:1])
    signs = tuple(Sign(label, rng.choice(("left", "right", "both", "")), rng.random()) for label in positive)
    return study(number, positive, unjudged, signs if with_signs else ())


STUDIES = [random_study(number) for number in range(300)]
SOME = STUDIES[:120]


@cache
def texts(one: Study, number: int = 0) -> tuple[str, ...]:
    teacher = TemplateTeacher(number)
    answers = [parse(teacher.write(one, PROMPTS[name], CHEXPERT14), CHEXPERT14).think for name in REASONING]
    return (*answers, describe(one, CHEXPERT14, random.Random(number)))


def clauses(text: str) -> list[str]:
    return [clause for clause in re.split(r"(?<=\w)[.;]\s+|\n|(?<=\w)\.$", text) if clause]


@pytest.mark.slow
def test_positive_signs_belong_to_positive_labels_and_denials_to_negative_ones() -> None:
    for one in SOME:
        positive = set(CHEXPERT14.decode(one.target))
        for text in texts(one):
            for clause in clauses(text):
                # "No sign of disease is seen" is how a normal study is affirmed.
                denied = bool(NEGATION.search(clause)) and "of disease" not in clause
                said = {label for label, words in SIGN_WORDS.items() if re.search(words, clause, re.IGNORECASE)}
                wrong = said & positive if denied else said - positive
                assert not wrong, (wrong, clause, text)


def test_every_positive_label_is_said_and_none_that_is_not_judged() -> None:
    for one in SOME:
        for label, on, judged in zip(CHEXPERT14, one.target, one.mask, strict=True):
            for text in texts(one) if on or (not judged and label != "No Finding") else ():
                assert bool(re.search(SIGN_WORDS[label], text, re.IGNORECASE)) == bool(on), (label, text)


def test_no_side_and_no_severity_is_invented() -> None:
    for number in range(100):
        for text in texts(random_study(number, with_signs=False), number):
            assert not SIDE_WORDS.search(text), text
            assert not SEVERITY_WORDS.search(text), text


@pytest.mark.parametrize(
    ("label", "signs", "sides", "grade"),
    [
        ("Pleural Effusion", [("left", 0.9)], {"left"}, "large"),
        ("Consolidation", [("left", 0.9), ("right", 0.1)], {"bilateral", "both lungs", "each side"}, "marked"),
    ],
)
def test_known_sides_and_the_worst_severity_are_said_and_no_other(label, signs, sides, grade) -> None:
    one = study(0, [label], signs=(*(Sign(label, *sign) for sign in signs), Sign("Edema", "right", 0.1)))
    found = " ".join(text for n in range(40) for text in texts(one, n))
    assert (set(SIDE_WORDS.findall(found)), set(SEVERITY_WORDS.findall(found))) == (sides, {grade})


def test_a_parent_label_is_not_denied_beside_its_child() -> None:
    for number in range(60):
        for text in texts(study(number, ["Edema", "Cardiomegaly"]), number):
            assert not re.search(SIGN_WORDS["Lung Opacity"], text), text
            assert not re.search(r"\bwiden|\bwide\b", text), text


def test_the_checklist_has_twelve_numbered_steps_and_covers_every_label_once() -> None:
    lines = texts(STUDIES[0])[REASONING.index("reasoning_a")].splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{n}. {head}" for n, head in enumerate(CHECKLIST, 1)]
    assert len(lines) == 12
    decided = [label for labels in CHECKLIST.values() for label in labels]
    assert sorted(decided) == sorted(set(CHEXPERT14) - {"No Finding"})
    prompt_lines = PROMPTS["reasoning_a"].text.splitlines()
    assert all(any(p.startswith(f"{n}. {head}: ") for p in prompt_lines) for n, head in enumerate(CHECKLIST, 1))


@pytest.mark.parametrize(("name", "bounds"), [("free_reasoning", FREE_WORDS), ("reasoning_narrative", NARRATIVE_WORDS)])
def test_the_reasoning_keeps_to_its_length(name: str, bounds: tuple[int, int]) -> None:
    answers = [TemplateTeacher().write(one, PROMPTS[name], CHEXPERT14) for one in STUDIES]
    lengths = [len(parse(answer, CHEXPERT14).think.split()) for answer in answers]
    assert bounds[0] <= min(lengths)
    assert max(lengths) <= bounds[1]


@pytest.mark.parametrize("name", REASONING)
def test_the_wording_varies(name: str) -> None:
    assert len({TemplateTeacher().write(one, PROMPTS[name], CHEXPERT14) for one in STUDIES}) >= 200
    one = STUDIES[1]
    assert len({TemplateTeacher(seed).write(one, PROMPTS[name], CHEXPERT14) for seed in range(20)}) >= 15


def test_the_answers_are_the_same_in_every_process() -> None:
    """Strings hash otherwise in each process: an order that is taken from a set would show here."""
    answers = [TemplateTeacher().write(one, PROMPTS[name], CHEXPERT14) for name in ARMS for one in STUDIES]
    assert sha256("\n".join(answers).encode()).hexdigest()[:16] == "c472300274b1821e"


def test_a_study_without_an_answer_is_refused() -> None:
    nothing, torn = study(0, []), study(1, ["No Finding", "Edema"])
    hidden = study(2, ["Edema"], unjudged={"Edema"})
    teacher = TemplateTeacher()
    for one, why in ((nothing, "no positive label"), (torn, "beside a disease"), (hidden, "no positive label")):
        assert not teacher.can_write(one, CHEXPERT14)
        with pytest.raises(ValueError, match=why):
            teacher.write(one, PROMPTS["only_label"], CHEXPERT14)
    assert teacher.can_write(study(3, ["No Finding", "Support Devices"]), CHEXPERT14)
    assert "clear" not in describe(torn, CHEXPERT14, random.Random(0))


def test_a_wrong_label_set_is_refused() -> None:
    with pytest.raises(ValueError, match="'nih9' has 9 labels"):
        TemplateTeacher().write(STUDIES[0], PROMPTS["only_label"], NIH9)
    odd = LabelSet("odd", ("Cavity",))
    with pytest.raises(ValueError, match=r"no phrases for \['Cavity'\]"):
        TemplateTeacher().can_write(study(0, ["Cavity"], labels=odd), odd)


def test_every_text_is_tidy_and_betrays_no_given_answer() -> None:
    for one in SOME:
        for text in texts(one):
            assert not UNTIDY.search(text), text
            assert not re.search(r"label|given|annot|ground truth|as stated|told", text, re.IGNORECASE), text
            assert all(clause[0].isupper() or clause[0].isdigit() for clause in re.split(r"\. (?!\d)", text)), text


@pytest.mark.parametrize("side", ["", "left", "right", "both"])
@pytest.mark.parametrize("label", CHEXPERT14)
def test_every_phrase_is_tidy_with_every_slot_filled_and_empty(label: str, side: str) -> None:
    for signs in ((), *((Sign(label, side, severity),) for severity in (0.0, 0.5, 1.0))):
        facts = facts_of(study(0, [label], signs=signs), CHEXPERT14)
        for phrase in FINDINGS[label].signs + FINDINGS[label].names:
            said = facts.say(phrase, label)
            assert not UNTIDY.search(said), said
            assert re.search(SIGN_WORDS[label], said, re.IGNORECASE), said


def test_captions_are_two_to_five_sentences_of_plain_prose() -> None:
    for number, one in enumerate([*SOME, study(1, []), study(2, [], unjudged=set(CHEXPERT14))]):
        text = describe(one, CHEXPERT14, random.Random(number))
        assert 2 <= len(re.findall(r"\.(?:\s|$)", text)) <= 5, text
        assert "<" not in text


def test_answers_to_questions_follow_the_labels() -> None:
    asked = set()
    for number, one in enumerate(STUDIES * 3):
        asked_for, answer = question(one, CHEXPERT14, random.Random(number))
        label = next(k for k, f in FINDINGS.items() if asked_for in QUESTIONS[k] or asked_for[21:-1] in f.nouns)
        at = CHEXPERT14.index(label)
        assert one.mask[at]
        assert answer.startswith("No") == (one.target[at] == 0), (asked_for, answer)
        sides = {sign.side for sign in one.signs if sign.label == label} if one.target[at] else set()
        for word, side in (("left", "left"), ("right", "right"), ("each side", "both"), ("both", "both")):
            assert not re.search(rf"\b{word}\b", answer) or side in sides, (asked_for, answer)
        asked.add(label)
    assert asked == set(CHEXPERT14)
    with pytest.raises(ValueError, match="nothing to ask"):
        question(study(0, [], unjudged=set(CHEXPERT14)), CHEXPERT14, random.Random(0))


any_side = st.sampled_from(["left", "right", "both", ""])
any_sign = st.builds(Sign, st.sampled_from(CHEXPERT14.labels), any_side, st.floats(0, 1))


@st.composite
def any_study(draw: st.DrawFn) -> tuple[Study, LabelSet]:
    """Any study: all subsets of labels, with gaps in what is judged, contradictions among them."""
    label_set = draw(st.sampled_from([CHEXPERT14, NIH9]))
    mask = draw(st.tuples(*[st.booleans()] * len(label_set)))
    target = draw(st.tuples(*[st.booleans()] * len(label_set)))
    hot = tuple(int(on and judged) for on, judged in zip(target, mask, strict=True))
    view, found = draw(st.sampled_from(["PA", "AP", ""])), tuple(draw(st.lists(any_sign, max_size=4)))
    return Study(draw(st.text(max_size=5)), "", "", Path("x.png"), hot, mask, view=view, signs=found), label_set


@pytest.mark.parametrize("name", ARMS)
@given(any_study(), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_the_labels_of_a_study_come_back_from_its_target(name: str, drawn: tuple[Study, LabelSet], seed: int) -> None:
    (one, label_set), teacher, prompt = drawn, TemplateTeacher(seed), PROMPTS[name]
    truth = label_set.decode(one.target)
    torn = "No Finding" in truth and set(truth) - {"No Finding", "Support Devices"} != set()
    assert teacher.can_write(one, label_set) == (bool(truth) and not torn)
    if teacher.can_write(one, label_set):
        parsed = parse(teacher.write(one, prompt, label_set), label_set, prompt.grammar)
        assert (parsed.labels, parsed.broken) == (truth, None)
        assert (parsed.unknown, parsed.duplicates, parsed.stray_blocks) == ((), (), 0)
        assert bool(parsed.think) == (name != "only_label")


def test_a_format_without_targets_is_refused() -> None:
    assert set(ARMS) == {"only_label", *REASONING}
    for name in set(PROMPTS) - set(ARMS):
        with pytest.raises(ValueError, match=f"no style for prompt '{name}'; it has: \\['free_reasoning'"):
            TemplateTeacher().write(study(0, ["Edema"]), PROMPTS[name], CHEXPERT14)
