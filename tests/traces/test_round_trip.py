"""From a study's labels to the teacher's text and back: every format that has targets loses and invents nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.labels.schema import LabelSet
from chexreason.parsing import parse
from chexreason.prompts import load_prompt, render
from chexreason.traces.template import ARMS, TemplateTeacher
from chexreason.types import Sign, Study

FOLDER = Path(__file__).parents[2] / "conf" / "prompt"
PROMPTS = {path.stem: load_prompt(path.stem, FOLDER) for path in FOLDER.glob("*.yaml")}
signs = st.builds(
    Sign,
    st.sampled_from(CHEXPERT14.labels),
    st.sampled_from(["left", "right", "both", ""]),
    st.floats(0, 1),
)


@st.composite
def studies(draw: st.DrawFn) -> tuple[Study, LabelSet]:
    """Any study: all subsets of labels, with gaps in what is judged, contradictions among them."""
    label_set = draw(st.sampled_from([CHEXPERT14, NIH9]))
    mask = draw(st.tuples(*[st.booleans()] * len(label_set)))
    target = draw(st.tuples(*[st.booleans()] * len(label_set)))
    hot = tuple(int(on and judged) for on, judged in zip(target, mask, strict=True))
    view, found = draw(st.sampled_from(["PA", "AP", ""])), tuple(draw(st.lists(signs, max_size=4)))
    study = Study(draw(st.text(max_size=5)), "", "", Path("x.png"), hot, mask, view=view, signs=found)
    return study, label_set


@pytest.mark.parametrize("name", ARMS)
@given(studies(), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_the_labels_of_a_study_come_back_from_its_target(name: str, drawn: tuple[Study, LabelSet], seed: int) -> None:
    (study, label_set), teacher, prompt = drawn, TemplateTeacher(seed), PROMPTS[name]
    truth = label_set.decode(study.target)
    torn = "No Finding" in truth and set(truth) - {"No Finding", "Support Devices"} != set()
    assert teacher.can_write(study, label_set) == (bool(truth) and not torn)
    if teacher.can_write(study, label_set):
        parsed = parse(teacher.write(study, prompt, label_set), label_set, prompt.grammar)
        assert (parsed.labels, parsed.broken) == (truth, None)
        assert (parsed.unknown, parsed.duplicates, parsed.stray_blocks) == ((), (), 0)
        assert bool(parsed.think) == (name != "only_label")


def test_the_arms_are_the_formats_with_targets() -> None:
    study = Study("x/0", "", "", Path("x.png"), CHEXPERT14.encode(["Edema"]), (True,) * 14)
    assert set(ARMS) == {"only_label", "free_reasoning", "reasoning_narrative", "reasoning_a"}
    for name in set(PROMPTS) - set(ARMS):
        with pytest.raises(ValueError, match=f"no style for prompt '{name}'; it has: \\['free_reasoning'"):
            TemplateTeacher().write(study, PROMPTS[name], CHEXPERT14)


def test_the_targets_follow_the_form_that_their_prompt_shows() -> None:
    study = Study("x/0", "", "", Path("x.png"), CHEXPERT14.encode(["Edema"]), (True,) * 14)
    for name in ARMS:
        shown = render(PROMPTS[name], CHEXPERT14)
        answer = TemplateTeacher().write(study, PROMPTS[name], CHEXPERT14)
        tags = ["<think>", "</think>", "<solution>", "</solution>"]
        assert [tag in answer for tag in tags] == [tag in shown for tag in tags]
