"""Prompts: the packaged words are complete and in form, and wrong files are refused with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.parsing import parse
from chexreason.prompts import Prompt, load_prompt, render

FOLDER = Path(__file__).parents[1] / "conf" / "prompt"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def test_the_four_arms_are_there() -> None:
    assert {"free_reasoning", "only_label", "reasoning_a", "reasoning_narrative"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_prompt_states_labels_and_format(name: str) -> None:
    prompt = load_prompt(name, FOLDER)
    text = render(prompt, CHEXPERT14)
    assert prompt.name == name
    assert ", ".join(CHEXPERT14) in text
    assert "<solution>" in text
    assert "</solution>" in text
    assert ("<think>" in text) == ("</think>" in text) == (prompt.grammar == "think_solution")
    assert (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_echoing_the_form_a_prompt_shows_predicts_nothing(name: str) -> None:
    prompt = load_prompt(name, FOLDER)
    text = render(prompt, CHEXPERT14)
    opening = "<think>" if prompt.grammar == "think_solution" else "<solution>"
    assert parse(text[text.index(opening) :], CHEXPERT14, prompt.grammar).labels == ()


@pytest.mark.parametrize("name", ["free_reasoning", "only_label"])
def test_the_small_model_prompts_stay_compact(name: str) -> None:
    text = render(load_prompt(name, FOLDER), CHEXPERT14)
    assert len(text.replace(", ".join(CHEXPERT14), "").split()) <= 90


def test_the_checklist_prompt_writes_out_twelve_steps() -> None:
    lines = render(load_prompt("reasoning_a", FOLDER), CHEXPERT14).splitlines()
    assert [n for n in range(1, 14) if any(line.startswith(f"{n}. ") for line in lines)] == list(range(1, 13))


def test_the_label_set_given_is_the_one_listed() -> None:
    text = render(load_prompt("only_label", FOLDER), NIH9)
    assert ", ".join(NIH9) in text
    assert "Fracture" not in text


def test_doubled_braces_are_literal() -> None:
    assert render(Prompt("p", "", "{{x}} {labels}", "solution_only"), NIH9).startswith("{x} Atelectasis, ")


@pytest.mark.parametrize("text", ["{lables}", "{}", "{labels.__class__}", "{0}", "{labels[0]}", "one { brace"])
def test_an_unknown_placeholder_is_refused_with_the_prompt(text: str) -> None:
    with pytest.raises(ValueError, match="prompt 'mine': "):
        render(Prompt("mine", "", text, "solution_only"), NIH9)


def test_a_missing_prompt_lists_what_there_is() -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.yaml.*only_label"):
        load_prompt("nope", FOLDER)


def test_a_prompt_file_anywhere_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ncue: c\ntext: 'Any of {labels}?'\ngrammar: solution_only\n", encoding="utf-8")
    assert load_prompt(path, FOLDER) == Prompt("mine", "c", "Any of {labels}?", "solution_only")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: a\n", "exactly the keys"),
        ("- a\n", "exactly the keys"),
        ("name: a\ncue: c\ntext: t\ngrammar: g\nextra: 1\n", "exactly the keys"),
        ("name: a\ncue: c\ntext: 3\ngrammar: solution_only\n", "text must be text"),
        ("name: a\ncue: c\ntext: t\ngrammar: xml\n", "unknown answer grammar 'xml'"),
        ("name: [\n", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_wrong_prompt_file_is_refused_with_its_path(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"wrong\.yaml: .*{message}"):
        load_prompt(path, FOLDER)
