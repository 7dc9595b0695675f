"""Prompts: the words live in YAML files; this file reads and fills them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter

import yaml

from chexreason.labels.schema import LabelSet
from chexreason.parsing import Grammar


@dataclass(frozen=True)
class Prompt:
    """One instruction format: its name, the paper's cue, our words, and the answer grammar it asks for.

    ``text`` may hold ``{labels}``; a literal brace is doubled. Raises ValueError on an unknown grammar.
    """

    name: str
    cue: str
    text: str
    grammar: str

    def __post_init__(self) -> None:
        Grammar.of(self.grammar)


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
    wanted = {f.name for f in fields(Prompt)}
    if not isinstance(values, dict) or set(values) != wanted:
        found = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path}: a prompt has exactly the keys {sorted(wanted)}, found {found}")
    if wrong := [key for key, value in values.items() if not isinstance(value, str)]:
        raise ValueError(f"{path}: {', '.join(wrong)} must be text; put it in quotes")
    try:
        return Prompt(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def render(prompt: Prompt, label_set: LabelSet) -> str:
    """The prompt's text with ``{labels}`` replaced by the label set's names, in its order.

    Raises ValueError naming the prompt and the placeholder when the text holds another one or a lone brace.
    """
    try:
        names = [name for _, name, _, _ in Formatter().parse(prompt.text) if name is not None]
    except ValueError as error:
        raise ValueError(f"prompt '{prompt.name}': {error}; double a literal brace: {{{{ or }}}}") from error
    for name in names:
        if name != "labels":
            raise ValueError(f"prompt '{prompt.name}': unknown placeholder {{{name}}}; known: {{labels}}")
    return prompt.text.format(labels=", ".join(label_set)).strip()
