"""The answer format: what is read, which rule is broken, and that reading undoes writing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.parsing import BLOCKS, Grammar, format_answer, parse

TAGS = ["<think>", "</think>", "<solution>", "</solution>", "<answer>", "</answer>"]
RULES = {
    "no_solution",
    "two_solutions",
    "unclosed_solution",
    "no_think",
    "two_thinks",
    "unclosed_think",
    "unexpected_think",
    "solution_before_think",
    "misplaced_tag",
    "empty_solution",
}
grammars = st.sampled_from(list(Grammar))
label_lists = st.lists(st.sampled_from(CHEXPERT14.labels), min_size=1, unique=True)


def solution(body: str) -> str:
    return f"<think>seen</think><solution>{body}</solution>"


@pytest.mark.parametrize("grammar", Grammar)
def test_every_truncated_answer_is_broken(grammar: Grammar) -> None:
    whole = format_answer("The heart is enlarged." * ("think" in BLOCKS[grammar]), ["Cardiomegaly"], grammar)
    assert parse(whole, CHEXPERT14, grammar).labels == ("Cardiomegaly",)
    assert all(not parse(whole[:n], CHEXPERT14, grammar).valid for n in range(len(whole)))


@pytest.mark.parametrize(
    ("body", "labels", "unknown", "duplicates"),
    [
        ("<b>Edema</b>, Fracture", ("Fracture",), ("<b>Edema</b>",), ()),
        ("<i>Edema, Fracture</i>", (), ("<i>Edema", "Fracture</i>"), ()),
        ("<script>alert(1)</script>", (), ("<script>alert(1)</script>",), ()),
        ("&lt;Edema&gt;", (), ("&lt", "Edema&gt"), ()),
        ("# Edema", (), ("# Edema",), ()),
        ("Edema (mild), Fracture 90%", (), ("Edema (mild", "Fracture 90%"), ()),
        ("Edema or Fracture", (), ("Edema or Fracture",), ()),  # one of two is not said to be present
        ("no Edema", (), ("no Edema",), ()),
        ("Effusion, Mass, Hernia", (), ("Effusion", "Mass", "Hernia"), ()),
        ("eDeMa, FRACTURE, fracture", ("Edema", "Fracture"), (), ("fracture",)),
        ("Ed\u200bema, Pleural\u00a0Fluid", ("Edema",), ("Pleural\u00a0Fluid",), ()),  # unknown items as written
        ("Location: Edema", (), ("Location: Edema",), ()),
        ("<answer>Edema</answer>", (), ("<answer>Edema</answer>",), ()),
        (", ".join(CHEXPERT14), CHEXPERT14.labels, (), ()),
        ("Edema, edema, Cat, EDEMA, Cat", ("Edema",), ("Cat", "Cat"), ("edema", "EDEMA")),
        ("Label 1, Label 2", (), ("Label 1", "Label 2"), ()),  # echoes of the prompt
        ("label, label", (), ("label", "label"), ()),
        ("None", (), ("None",), ()),
        ("normal heart, no Cardiomegaly", (), ("normal heart", "no Cardiomegaly"), ()),
        ("Edema is not seen, Fracture", ("Fracture",), ("Edema is not seen",), ()),
        ("Edema: 0.9, Fracture: -1, Pneumonia: mild", (), ("Edema: 0.9", "Fracture: -1", "Pneumonia: mild"), ()),
        ("Labels: none", (), ("none",), ()),
        ("Edema, Fracture, no effusion", ("Edema", "Fracture"), ("no effusion",), ()),
        ("Edema\nAll other labels are absent.", ("Edema",), ("All other labels are absent",), ()),
        ("## Absent\n- Fracture\n## Present\n- Edema", ("Edema",), ("## Absent", "## Present"), ()),
        ("Lungs: Edema, Fracture", (), ("Lungs: Edema", "Fracture"), ()),
        ("Edema\nReasons: haze, Fracture", ("Edema",), ("Reasons: haze", "Fracture"), ()),
        ("Edema, 0, Fracture, 1", ("Fracture",), ("Edema, 0", "1"), ()),
        ("Edema / no Fracture", ("Edema",), ("no Fracture",), ()),
        ("no Edema\uff0cFracture", (), ("no Edema\uff0cFracture",), ()),  # as written
    ],
)
def test_hostile_lists_are_read_by_the_stated_rules(
    body: str, labels: tuple[str, ...], unknown: tuple[str, ...], duplicates: tuple[str, ...]
) -> None:
    parsed = parse(solution(body), CHEXPERT14)
    assert (parsed.labels, parsed.unknown, parsed.duplicates, parsed.broken) == (labels, unknown, duplicates, None)


@pytest.mark.parametrize(
    ("text", "grammar", "broken", "stray"),
    [
        ("", "think_solution", "no_think", 0),
        ("Edema", "think_solution", "no_think", 0),
        ("<solution>Edema</solution>", "think_solution", "no_think", 0),
        ("<think>a<solution>Edema</solution>", "think_solution", "unclosed_think", 0),
        ("<think>a</think><think>b</think><solution>Edema</solution>", "think_solution", "two_thinks", 0),
        ("<think>a</think>Edema", "think_solution", "no_solution", 0),
        ("<think>a</think><solution>Edema", "think_solution", "unclosed_solution", 0),
        ("<think>a</think><solution>Edema</solution><solution>Edema</solution>", "think_solution", "two_solutions", 0),
        ("<solution>Edema</solution><think>a</think>", "think_solution", "solution_before_think", 0),
        ("<think>a<solution>Edema</solution></think>", "think_solution", "misplaced_tag", 0),
        ("</think>a<think><solution>Edema</solution>", "think_solution", "misplaced_tag", 0),
        ("<think>a</think><solution></solution>", "think_solution", "empty_solution", 0),
        ("<think>a</think><solution> , - \n. </solution>", "think_solution", "empty_solution", 0),
        ("<THINK>a</THINK><solution>Edema</solution>", "think_solution", "no_think", 0),
        ("<solution>Edema</solution>", "solution_only", None, 0),
        ("<think>a</think><solution>Edema</solution>", "solution_only", "unexpected_think", 0),
        ("Edema", "solution_only", "no_solution", 0),
        ("</solution>Edema<solution>", "solution_only", "misplaced_tag", 0),
        ("<think></think><solution>Edema</solution>", "think_solution", None, 0),
        ("<think>a</think><solution>Edema</solution> So it is Fracture.", "think_solution", None, 1),
        ("<think>a</think><solution>Edema</solution><end_of_turn>", "think_solution", None, 1),
        ("<think><think>a</think></think><solution>Edema</solution>", "think_solution", "two_thinks", 0),
        ("<think>a</think><solution><solution>Edema</solution></solution>", "think_solution", "two_solutions", 0),
        ("<think>a</think><solution><think>b</think>Edema</solution>", "think_solution", "two_thinks", 0),
        ("<think>I will write <solution> last</think><solution>Edema</solution>", "think_solution", "two_solutions", 0),
        ("<think >a</think><solution>Edema</solution>", "think_solution", "no_think", 0),
        ("<think>a</think><answer>Edema</answer>", "think_solution", "no_solution", 0),
        ("<think>a</think><answer>Edema</answer>", "think_answer", None, 0),
        ("<think>a <solution> b</think><answer>Edema</answer>", "think_answer", None, 0),
        ("<think>a</think><solution>Edema</solution>", "think_answer", "no_solution", 0),
        ("<think>a</think><answer>Edema", "think_answer", "unclosed_solution", 0),
        ("<answer>Edema</answer><think>a</think>", "think_answer", "solution_before_think", 0),
        ("<think>a</think><answer> </answer>", "think_answer", "empty_solution", 0),
        ("<answer>Edema</answer>", "solution_only", "no_solution", 0),
    ],
)
def test_an_output_is_read_by_the_stated_rules_and_a_broken_one_predicts_nothing(
    text: str, grammar: str, broken: str | None, stray: int
) -> None:
    parsed = parse(text, CHEXPERT14, grammar)
    assert (parsed.broken, parsed.stray_blocks) == (broken, stray)
    assert (parsed.labels, parsed.unknown, parsed.duplicates) == (() if broken else ("Edema",), (), ())


def test_text_outside_the_blocks_is_counted_not_broken() -> None:
    text = "Sure!\n<think>a</think> so \n <solution>Edema</solution>\n\nDone.\nBye."
    assert parse(text, CHEXPERT14).stray_blocks == 3
    assert parse(text, CHEXPERT14).labels == ("Edema",)
    assert parse(f"  \n{solution('Edema')}\n ", CHEXPERT14).stray_blocks == 0


@given(st.one_of(st.text(), st.lists(st.sampled_from([*TAGS, "Edema", ",", "\n", "1."])).map("".join)), grammars)
@settings(max_examples=80)
def test_any_text_is_parsed_without_an_error(text: str, grammar: Grammar) -> None:
    parsed = parse(text, CHEXPERT14, grammar)
    assert parsed.broken is None or parsed.broken in RULES
    assert parsed.valid or parsed.labels == ()
    assert set(parsed.labels) <= set(CHEXPERT14)


@given(label_lists, st.text(alphabet=st.characters(exclude_characters="<")), grammars)
@settings(max_examples=100)
def test_reading_undoes_writing(labels: list[str], think: str, grammar: Grammar) -> None:
    reasoning = think if "think" in BLOCKS[grammar] else ""
    parsed = parse(format_answer(reasoning, labels, grammar), CHEXPERT14, grammar)
    assert parsed.broken is None
    assert parsed.labels == CHEXPERT14.decode(CHEXPERT14.encode(labels))
    assert (parsed.think, parsed.stray_blocks) == (reasoning.strip(), 0)


LONG = ("<think>" * 150_000, "<" * 1_000_000, "<solution></think>" * 60_000, solution("a " * 500_000)[:-9])
UNITS = (
    "-",
    " .",
    "1",
    "[ ] ",
    "Edema,",
    "Edema and ",
    "no Edema,",
    "label: a,",
    "labels:",
    "Absent:\n",
    "| a |\n|---|\n",
)
UNITS += ("1. ", "Edema: yes / ", "{", "|", "```json\n", "\u200b", "\uff0c", "\"'`*_ ", "n't", "+-:", "Edema is not ")


@pytest.mark.parametrize("text", [*LONG, *(solution(unit * (300_000 // len(unit)) + "!") for unit in UNITS)], ids=len)
def test_hostile_text_is_parsed_in_linear_time(text: str) -> None:
    start = time.process_time()
    parse(text, CHEXPERT14)
    assert time.process_time() - start < 10.0  # quadratic time would be minutes; a loaded machine needs 2 s


def test_an_unknown_grammar_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'xml'; known: think_solution, solution_only"):
        parse("", CHEXPERT14, "xml")


@pytest.mark.parametrize(
    ("think", "labels", "grammar", "message"),
    [
        ("a", [], "think_solution", "one or more"),
        ("a", ["Mass, Nodule"], "think_solution", "plain names"),
        ("a", ["<solution>"], "think_solution", "plain names"),
        ("a</think>", ["Edema"], "think_solution", "holds a tag"),
        ("a", ["Edema"], "solution_only", "no block for reasoning"),
        ("a<answer>", ["Edema"], "think_answer", "holds a tag"),
    ],
)
def test_what_the_format_cannot_carry_is_refused(think: str, labels: list[str], grammar: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        format_answer(think, labels, grammar)


def test_labels_are_matched_in_the_given_set_only() -> None:
    parsed = parse(solution("Oedema, Edema"), LabelSet("uk", ("Oedema",)))
    assert (parsed.labels, parsed.unknown) == (("Oedema",), ("Edema",))
