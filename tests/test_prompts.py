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
CUES = {
    "reasoning_narrative": "free-form expert narrative that aggregates evidence",
    "reasoning_self_check": "region-by-region scan, then an explicit verification pass",
    "reasoning_hypothesis": "hypothesis-driven comparison of candidate findings",
    "reasoning_a": "mandatory structured 12-step checklist with a strict format",
    "reasoning_b": "zonal lung review with pathology differentiation",
    "reasoning_c": "evidence-heavy report with a label-confidence matrix",
    "reasoning_d": "definition-guided labelling with strict criteria",
    "reasoning_e": "second-look pass over anatomic blind spots",
    "reasoning_f": "a differential diagnosis required for each abnormality",
    "free_reasoning": "concise analysis, then labels",
    "only_label": "labels alone, no rationale",
    "nv_reason": "NV-Reason-CXR-3B's own question and answer form, for that comparator",
}
OURS = [name for name in NAMES if name != "nv_reason"]
# The words that trained adapters and the shipped models were made with: an adapter's card refuses any other.
FROZEN = {
    "free_reasoning": "8807a85fa5328539",
    "only_label": "74fd5557ec2a511c",
    "reasoning_a": "5bffa243ae8ab0b8",
    "reasoning_narrative": "b019b6a8f8e8da4a",
}


def test_the_twelve_formats_are_there_with_the_papers_cues() -> None:
    assert {name: load_prompt(name, FOLDER).cue for name in NAMES} == CUES


@pytest.mark.parametrize("name", OURS)
def test_a_packaged_prompt_states_labels_and_format(name: str) -> None:
    prompt = load_prompt(name, FOLDER)
    text = render(prompt, CHEXPERT14)
    assert prompt.name == name
    assert prompt.grammar == ("solution_only" if name == "only_label" else "think_solution")
    assert ", ".join(CHEXPERT14) in text
    tags = ["<think>", "</think>"] * (name != "only_label") + ["<solution>", "</solution>"]
    found = sorted(
        (text.index(tag), tag) for tag in ("<think>", "</think>", "<solution>", "</solution>") if tag in text
    )
    assert [tag for _, tag in found] == tags
    assert all(text.count(tag) == 1 for tag in tags)
    assert text.endswith("<solution>label, label</solution>")


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
def test_a_prompt_file_says_what_it_is_and_how_to_run_it(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"# Run: python -m chexreason.cli.{'train' if name in FROZEN else 'evaluate'} prompt={name}\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_config_gives_the_same_prompt_as_the_file(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"), resolve=True)
    assert Prompt(**node) == load_prompt(name, FOLDER)


@pytest.mark.parametrize("name", OURS)
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


def test_the_label_set_given_is_the_one_listed() -> None:
    text = render(load_prompt("only_label", FOLDER), NIH9)
    assert ", ".join(NIH9) in text
    assert "Fracture" not in text


def test_definitions_are_those_of_the_label_set_given() -> None:
    text = render(load_prompt("reasoning_d", FOLDER), NIH9)
    assert [line[2:].split(":")[0] for line in text.splitlines() if line.startswith("- ")] == list(NIH9)
    assert "\n- Edema: fluid in interstitium" in text


def test_a_label_without_a_definition_is_refused() -> None:
    odd = LabelSet("odd", ("Edema", "Cavity", "Emphysema"))
    with pytest.raises(ValueError, match="'reasoning_d' has no definition of: Cavity, Emphysema; add it"):
        render(load_prompt("reasoning_d", FOLDER), odd)


def test_definitions_without_a_place_are_refused() -> None:
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


def test_a_label_list_written_by_hand_will_do() -> None:
    assert render(Prompt("mine", "", "Edema or Fracture?", "solution_only"), LabelSet("two", ("Edema", "Fracture")))
    assert render(Prompt("mine", "", "Which?", "solution_only", names_labels=False), NIH9) == "Which?"


def test_doubled_braces_are_literal() -> None:
    assert render(Prompt("p", "", "{{x}} {labels}", "solution_only"), NIH9).startswith("{x} Atelectasis, ")


@pytest.mark.parametrize(
    "text",
    ["{lables}", "{}", "{labels.__class__}", "{0}", "{labels[0]}", "one { brace", "{labels!r}", "{labels:{x}}"],
)
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
