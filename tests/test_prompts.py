"""Prompts: the packaged words are complete and in form, and wrong files are refused with the place."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.labels.schema import LabelSet
from chexreason.parsing import parse
from chexreason.prompts import Prompt, load_prompt, render

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "conf" / "prompt"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
OURS = [name for name in NAMES if name != "nv_reason"]
# The words that trained adapters and the shipped models were made with: an adapter's card refuses any other.
FROZEN = {
    "free_reasoning": "8807a85fa5328539",
    "only_label": "74fd5557ec2a511c",
    "reasoning_a": "5bffa243ae8ab0b8",
    "reasoning_narrative": "b019b6a8f8e8da4a",
}


@pytest.mark.parametrize("name", OURS)
def test_a_packaged_prompt_states_labels_and_format_and_its_echo_predicts_nothing(name: str) -> None:
    prompt = load_prompt(name, FOLDER)
    text = render(prompt, CHEXPERT14)
    assert prompt.name == name
    assert prompt.grammar == ("solution_only" if name == "only_label" else "think_solution")
    assert ", ".join(CHEXPERT14) in text
    tags = ["<think>", "</think>"] * (name != "only_label") + ["<solution>", "</solution>"]
    assert re.findall("</?(?:think|solution)>", text) == tags
    assert text.endswith("<solution>label, label</solution>")
    assert parse(text[text.index(tags[0]) :], CHEXPERT14, prompt.grammar).labels == ()


def test_nv_reason_is_asked_in_its_own_words() -> None:
    prompt = load_prompt("nv_reason", FOLDER)
    assert render(prompt, CHEXPERT14) == "Find abnormalities and support devices."
    answer = (
        "<think> We'll begin with the quality of this PA chest x-ray. </think>\n<answer> Lung Opacity, edema </answer>"
    )
    parsed = parse(answer, CHEXPERT14, prompt.grammar)
    assert (parsed.labels, parsed.broken, parsed.stray_blocks) == (("Edema", "Lung Opacity"), None, 0)


@pytest.mark.parametrize("name", FROZEN)
def test_the_words_that_adapters_were_trained_with_stay(name: str) -> None:
    text = render(load_prompt(name, FOLDER), CHEXPERT14)
    assert sha256(text.encode()).hexdigest()[:16] == FROZEN[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_file_says_how_to_run_it_and_gives_the_config_the_same_prompt(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"# Run: python -m chexreason.cli.{'train' if name in FROZEN else 'evaluate'} prompt={name}\n" in text
    assert Prompt(**OmegaConf.to_container(OmegaConf.create(text), resolve=True)) == load_prompt(name, FOLDER)


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("reasoning_self_check", ["Pass 1, scan", "A. Airway", "B. ", "C. ", "D. Diaphragm", "E. ", "Pass 2, verif"]),
        ("reasoning_hypothesis", ["1. Observations", "2. Hypotheses", "3. Tests", "4. Decision"]),
        ("reasoning_b", ["Zones:", "Differentiate each"]),
        ("reasoning_c", ["Report:", "Matrix:", "Each line reads: label | evidence for | evidence against | confiden"]),
        ("reasoning_d", [f"- {label}: " for label in CHEXPERT14]),
        ("reasoning_e", ["First look:", "Second look:", *[f"{n}. " for n in range(1, 12)]]),
        ("reasoning_f", ["Finding:", "Differential:", "Decision:"]),
    ],
)
def test_a_format_writes_out_the_parts_of_its_cue_in_order(name: str, starts: list[str]) -> None:
    lines = iter(render(load_prompt(name, FOLDER), CHEXPERT14).splitlines())
    for start in starts:
        assert any(line.startswith(start) for line in lines), start


def test_labels_and_definitions_are_those_of_the_label_set_given() -> None:
    text = render(load_prompt("reasoning_d", FOLDER), NIH9)
    assert ", ".join(NIH9) in text
    assert [line[2:].split(":")[0] for line in text.splitlines() if line.startswith("- ")] == list(NIH9)
    assert "\n- Edema: fluid in interstitium" in text


def test_a_label_without_a_definition_and_definitions_without_a_place_are_refused() -> None:
    odd = LabelSet("odd", ("Edema", "Cavity", "Emphysema"))
    with pytest.raises(ValueError, match="'reasoning_d' has no definition of: Cavity, Emphysema; add it"):
        render(load_prompt("reasoning_d", FOLDER), odd)
    with pytest.raises(ValueError, match=r"'p' has definitions, but its text has no \{definitions\}"):
        render(Prompt("p", "", "{labels}", "solution_only", {"Edema": "fluid"}), NIH9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("What do you see?", r"does not name 9 of the 9 labels it asks for: Atelectasis, .*Put \{labels\} where"),
        ("Any of Edema, Pneumonia and Consolidation?", "does not name 6 of the 9 labels it asks for: Atelectasis, C"),
        ("Use only these labels: {{labels}}", "does not name 9 of the 9"),
        ("", "does not name 9 of the 9"),
    ],
)
def test_a_prompt_without_its_label_list_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"prompt 'mine' {message}"):
        render(Prompt("mine", "", text, "solution_only"), NIH9)


def test_a_label_list_written_by_hand_will_do_and_doubled_braces_are_literal() -> None:
    assert render(Prompt("mine", "", "Edema or Fracture?", "solution_only"), LabelSet("two", ("Edema", "Fracture")))
    assert render(Prompt("mine", "", "Which?", "solution_only", names_labels=False), NIH9) == "Which?"
    assert render(Prompt("p", "", "{{x}} {labels}", "solution_only"), NIH9).startswith("{x} Atelectasis, ")


@pytest.mark.parametrize(
    "text",
    ["{lables}", "{}", "{labels.__class__}", "{0}", "{labels[0]}", "one { brace", "{labels!r}", "{labels:{x}}"],
)
def test_an_unknown_placeholder_is_refused_with_the_prompt(text: str) -> None:
    with pytest.raises(ValueError, match="prompt 'mine': "):
        render(Prompt("mine", "", text, "solution_only"), NIH9)


def test_a_prompt_file_anywhere_can_be_loaded_and_a_missing_one_lists_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ncue: c\ntext: 'Any of {labels}?'\ngrammar: solution_only\n", encoding="utf-8")
    assert load_prompt(path, FOLDER) == Prompt("mine", "c", "Any of {labels}?", "solution_only")
    with pytest.raises(FileNotFoundError, match=r"nope\.yaml.*only_label"):
        load_prompt("nope", FOLDER)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: a\n", "exactly the keys"),
        ("- a\n", "exactly the keys"),
        ("name: a\ncue: c\ntext: t\ngrammar: g\nextra: 1\n", "exactly the keys"),
        ("name: a\ncue: c\ntext: 3\ngrammar: solution_only\n", "text must be text"),
        ("name: a\ncue: c\ntext: t\ngrammar: xml\n", "unknown answer grammar 'xml'"),
        ("name: a\ncue: c\ntext: t\ngrammar: solution_only\ndefinitions: [a]\n", "definitions must map label names"),
        ("name: a\ncue: c\ntext: t\ngrammar: solution_only\ndefinitions: {Edema: 3}\n", "definitions must map label"),
        ("name: a\ncue: c\ntext: t\ngrammar: solution_only\nnames_labels: 0\n", "names_labels must be true or false"),
        ("name: [\n", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_wrong_prompt_file_is_refused_with_its_path(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"wrong\.yaml: .*{message}"):
        load_prompt(path, FOLDER)


def test_the_page_of_prompts_is_the_one_its_command_writes() -> None:
    from tools import prompts_page as script

    page = (ROOT / "docs" / "PROMPTS.md").read_text(encoding="utf-8")
    assert page == script.document(), "run: python -m tools.prompts_page > docs/PROMPTS.md"
    assert sorted(script.NAMES) == NAMES
    assert set(script.RULES) == set(re.findall(r"[a-z]+_[a-z_]+", parse.__doc__ or ""))
