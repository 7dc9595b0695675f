"""docs/PROMPTS.md: the prompts, what they cost in tokens, and how answers are read, from the files and code themselves.

python -m tools.prompts_page > docs/PROMPTS.md
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tokenizers import Tokenizer

import chexreason
from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import BLOCKS, Grammar, parse
from chexreason.prompts import Prompt, load_prompt, render
from chexreason.traces.template import ARMS, TemplateTeacher
from chexreason.types import Sign, Study
from tools.labels_page import markdown

FOLDER = Path(__file__).parents[1] / "conf" / "prompt"
TOKENIZERS = {
    name: Tokenizer.from_file(str(Path(chexreason.__file__).parent / "model/weights" / name / "tokenizer.json"))
    for name in ("tiny_gemma3", "tiny_qwen2_5_vl")
}
# The paper's order.
NAMES = ("reasoning_narrative", "reasoning_self_check", "reasoning_hypothesis")
NAMES += (*(f"reasoning_{letter}" for letter in "abcdef"), "free_reasoning", "only_label", "nv_reason")
N_STUDIES = 100

RULES = {
    "unexpected_think": "a tag of reasoning where the grammar has no place for it",
    "no_think": "no `<think>`",
    "unclosed_think": "no `</think>`",
    "two_thinks": "more than one `<think>` or `</think>`, nested ones too",
    "no_solution": "no opening tag of the list",
    "unclosed_solution": "no closing tag of the list, as in an answer cut at its length limit",
    "two_solutions": "more than one opening or closing tag of the list, nested or quoted in the reasoning too",
    "solution_before_think": "the list before the reasoning",
    "misplaced_tag": "any other order of the tags",
    "empty_solution": "a list in which no item is present: a study with none of the labels is No Finding",
}
OUTPUTS = (
    "<think>a</think><solution>edema; FRACTURE.</solution>",
    "<think>a</think><solution>1. **Edema**\n2. Fracture</solution>",
    '<think>a</think><solution>["Edema", "Fracture"]</solution>',
    "<think></think><solution>Edema</solution>",
    "Sure! <think>a</think><solution>Edema</solution> Take care.",
    "<think>a</think><solution>Edema, edema</solution>",
    "<think>a</think><solution>Oedema, Edema</solution>",
    "<think>a</think><solution><b>Edema</b>, Fracture</solution>",
    "<think>a</think><solution>Edema (90%), Fracture</solution>",
    "<think>a</think><solution>Edema and Fracture, no Pneumonia</solution>",
    "<think>a</think><solution>Edema or Fracture</solution>",
    "<think>a</think><solution>- [x] Edema\n- [ ] Fracture</solution>",
    '<think>a</think><solution>{"labels": ["Edema"], "absent": ["Fracture"]}</solution>',
    "<think>a</think><solution>None</solution>",
    "<think>a</think><solution></solution>",
    "<think>a</think><solution>Edema",
    "<think><think>a</think></think><solution>Edema</solution>",
    "<think>a</think><answer>Edema</answer>",
    "<THINK>a</THINK><solution>Edema</solution>",
)


def document() -> str:
    """The whole page."""
    return (
        "\n\n".join([_HEAD, _prompt_table(), _TARGETS, _target_table(), _GRAMMARS, _grammar_table(), *_reading()])
        + "\n"
    )


_HEAD = """# Prompts and the answer format

Written by `python -m tools.prompts_page > docs/PROMPTS.md`; a test compares it with the files and the parser.

## The twelve formats

The words are in `conf/prompt/<name>.yaml`, one file a format, chosen by `prompt=<name>`; the cues are the paper's, the
wording is ours. Words and tokens are those of the text with the fourteen labels of `chexpert14`, without the chat
template and the image. The shipped tokenizers were trained on the words of the four formats with targets; the other
eight cost them more tokens a word.

`{labels}` stands for the label set's names, `{definitions}` for one line a label from the file's `definitions`. A text
that does not name every label it asks for is refused, unless the file says `names_labels: false`. The words of
a trained adapter's prompt are part of its card, so a reworded file no longer fits it."""

_TARGETS = f"""## Targets

The template teacher writes answers to the four formats that the paper fine-tunes on. Tokens of {N_STUDIES} answers to
random studies of one to six labels, stop token not counted: an answer longer than `model.max_new_tokens` is never
finished, and a broken one."""

_GRAMMARS = """## Grammars

Tags count only as spelled here, and only those of the format's own grammar."""


def _prompt_table() -> str:
    rows = []
    for name in NAMES:
        prompt = load_prompt(name, FOLDER)
        text = render(prompt, CHEXPERT14)
        counts = [str(lengths[0]) for lengths in _lengths([text])]
        rows.append((f"`{name}`", prompt.cue, f"`{prompt.grammar}`", str(len(text.split())), *counts))
    return markdown(("prompt", "cue", "grammar", "words", *(f"tokens, {name}" for name in TOKENIZERS)), rows)


def _target_table() -> str:
    rows = []
    for name in ARMS:
        found = _lengths(_answers(load_prompt(name, FOLDER)))
        rows.append((f"`{name}`", *[f"{median(n):.0f}" for n in found], *[str(max(n)) for n in found]))
    columns = [f"{what}, {name}" for what in ("median", "longest") for name in TOKENIZERS]
    return markdown(("prompt", *columns), rows)


def _lengths(texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, by tokenizer."""
    return [[len(t.encode(x, add_special_tokens=False).ids) for x in texts] for t in TOKENIZERS.values()]


def _answers(prompt: Prompt) -> list[str]:
    """The template teacher's answers to random studies with signs."""
    rng, teacher, diseases = random.Random(0), TemplateTeacher(), sorted({*CHEXPERT14} - {"No Finding"})
    answers = []
    for number in range(N_STUDIES):
        positive = rng.sample(diseases, rng.randint(1, 6)) if rng.random() < 0.8 else ["No Finding"]
        signs = tuple(Sign(label, rng.choice(("left", "right", "both", "")), rng.random()) for label in positive)
        target = CHEXPERT14.encode(positive)
        study = Study(f"page-{number}", "", "", Path(), target, (True,) * len(target), view="PA", signs=signs)
        answers.append(teacher.write(study, prompt, CHEXPERT14))
    return answers


def _grammar_table() -> str:
    rows = []
    for grammar in Grammar:
        form = "".join(f"<{block}>…</{block}>" for block in BLOCKS[grammar])
        names = [f"`{name}`" for name in NAMES if load_prompt(name, FOLDER).grammar == grammar]
        rows.append((f"`{grammar}`", f"`{form}`", ", ".join(names)))
    return markdown(("grammar", "answer", "prompts"), rows)


def _reading() -> list[str]:
    """The rules, and outputs as the parser reads them."""
    broken = "A broken answer predicts nothing and counts as a failure. The first rule that it breaks names it:"
    read = """Every other answer is read. Its text is brought to one form: one space, dash and quotation mark, ASCII for
full-width letters and ideographic punctuation, no invisible characters. (Tags count only as spelled above.) The list is
split at commas, semicolons, bullets, line ends and, between names, at `and`, `&`, `/`, `with`. Numbering, quotes,
brackets, emphasis, code fences and the final period are taken off. Names are compared without regard to case.
Headings (`Findings:`, `"labels": [`) are no items. A mark or value (`[x]`, `☑`, `✓`, `(+)`, `: yes`, `= 1`,
`| present |`, `: true`) says that a label is present. What is marked absent (`[ ]`, `☐`, `✗`, `(-)`, `: no`, `: 0`) or
stands under `Absent:`, `## Ruled out`, `Possible:` is no item. What then is no label of the set is unknown: another
value, markup, a number or a comment beside a name, a name alone under another heading (`Lungs: A, B`), `A or B`, and
denials in words (`no A, B or C`). Text outside the blocks is counted. Under `think_solution`:"""
    return [
        f"## Reading an answer\n\n{broken}",
        markdown(("rule", "broken by"), [(f"`{rule}`", words) for rule, words in RULES.items()]),
        read,
        markdown(("output", "labels", "remarks"), [_read(text) for text in OUTPUTS]),
    ]


def _read(text: str) -> tuple[str, str, str]:
    parsed = parse(text, CHEXPERT14)
    remarks = [f"broken: `{parsed.broken}`"] if parsed.broken else []
    remarks += [f"unknown: {', '.join(f'`{x}`' for x in parsed.unknown)}"] if parsed.unknown else []
    remarks += [f"repeated: {', '.join(parsed.duplicates)}"] if parsed.duplicates else []
    remarks += [f"stretches of text outside the blocks: {parsed.stray_blocks}"] if parsed.stray_blocks else []
    shown = text.replace("\n", "⏎")
    return f"`{shown}`", ", ".join(parsed.labels) or "none", "; ".join(remarks)


if __name__ == "__main__":
    print(document(), end="")
