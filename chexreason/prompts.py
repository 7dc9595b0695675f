"""Prompts: the words live in YAML files; this file reads and fills them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from chexreason.labels.schema import LabelSet
from chexreason.parsing import AnswerFormat, Grammar


@dataclass(frozen=True)
class Prompt:
    """One instruction format: its name, the paper's cue, our words, and the answer grammar it asks for.

    ``text`` may hold ``{labels}`` and ``{definitions}``; a literal brace is doubled. ``definitions`` maps each label to
    the criteria that the text gives it. ``names_labels`` is False only for a model that was trained on the label names
    and is not told them. Raises ValueError on an unknown grammar.
    """

    name: str
    cue: str
    text: str
    grammar: str
    definitions: Mapping[str, str] = field(default_factory=dict, hash=False)
    names_labels: bool = True

    def __post_init__(self) -> None:
        Grammar(self.grammar)

    def answer_format(self, label_set: LabelSet) -> AnswerFormat:
        """How the answers to this prompt are read, with the labels of ``label_set``."""
        return AnswerFormat(label_set, Grammar(self.grammar))


def load_prompt(name_or_path: str | Path, folder: Path) -> Prompt:
    """The prompt called ``name_or_path`` in ``folder``, or the one in the YAML file it points at.

    Raises FileNotFoundError listing the prompts there are, ValueError (with the file) on wrong keys or types.
    """
    given = Path(name_or_path)
    path = given if given.suffix in {".yaml", ".yml"} else folder / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise FileNotFoundError(f"no prompt at {path}; prompts in {folder}: {known}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    try:
        _check_values(values)
        return Prompt(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_values(values: Any) -> None:
    """Refuses (ValueError) what is not a mapping of a prompt's keys to values of their types."""
    known = {f.name for f in fields(Prompt)}
    needed = {f.name for f in fields(Prompt) if f.default is MISSING and f.default_factory is MISSING}
    if not isinstance(values, dict) or not needed <= set(values) <= known:
        found = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        also = ", ".join(sorted(known - needed))
        raise ValueError(f"a prompt has exactly the keys {sorted(needed)} and perhaps {also}, found {found}")
    if wrong := [key for key in needed if not isinstance(values[key], str)]:
        raise ValueError(f"{', '.join(sorted(wrong))} must be text; put it in quotes")
    definitions = values.get("definitions", {})
    if not isinstance(definitions, dict) or not all(isinstance(x, str) for pair in definitions.items() for x in pair):
        raise ValueError("definitions must map label names to text")
    if not isinstance(values.get("names_labels", True), bool):
        raise ValueError(f"names_labels must be true or false, not {values['names_labels']!r}")


def render(prompt: Prompt, label_set: LabelSet) -> str:
    """The prompt's text, ``{labels}`` and ``{definitions}`` filled for the label set, in its order.

    Raises ValueError naming the prompt: on another placeholder or a lone brace, on labels that the text does not name
    or define, and on definitions that the text does not use.
    """
    try:
        found = placeholders(prompt.text)
    except ValueError as error:
        raise ValueError(f"prompt '{prompt.name}': {error}; double a literal brace: {{{{ or }}}}") from error
    if unknown := [name for name in found if name not in {"labels", "definitions"}]:
        shown = ", ".join(f"{{{name}}}" for name in unknown)
        raise ValueError(f"prompt '{prompt.name}': unknown placeholder {shown}; known: {{labels}}, {{definitions}}")
    if prompt.definitions and "definitions" not in found:
        raise ValueError(f"prompt '{prompt.name}' has definitions, but its text has no {{definitions}} to put them in")
    filled = {"labels": ", ".join(label_set)}
    if "definitions" in found:
        filled["definitions"] = _defined(prompt, label_set)
    text = prompt.text.format(**filled).strip()
    if prompt.names_labels and (unnamed := [label for label in label_set if label not in text]):
        raise ValueError(
            f"prompt '{prompt.name}' does not name {len(unnamed)} of the {len(label_set)} labels it asks for: "
            f"{', '.join(unnamed)}. Put {{labels}} where their list belongs, or set names_labels: false for a model "
            f"that was trained on the names"
        )
    return text


def placeholders(text: str) -> list[str]:
    """What stands in braces in ``text``, in order; raises ValueError on a lone brace."""
    parsed = [(name, kind, spec) for _, name, spec, kind in Formatter().parse(text) if name is not None]
    return [name + (f"!{kind}" if kind else "") + (f":{spec}" if spec else "") for name, kind, spec in parsed]


def _defined(prompt: Prompt, label_set: LabelSet) -> str:
    """One line a label: its name and its criteria."""
    if missing := [label for label in label_set if label not in prompt.definitions]:
        raise ValueError(f"prompt '{prompt.name}' has no definition of: {', '.join(missing)}; add it under definitions")
    return "\n".join(f"- {label}: {prompt.definitions[label].strip()}" for label in label_set)
