"""The forms in which models write a list of labels: each is read, each denial stays one, and no text names more."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from itertools import product

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet, plain
from chexreason.parsing import Grammar, format_answer, parse
from chexreason.rewards.format import FormatReward
from chexreason.types import Completion

Writer = Callable[[Sequence[str]], str]


def read(body: str, labels: LabelSet = CHEXPERT14):
    return parse(f"<solution>{body}</solution>", labels, Grammar.SOLUTION_ONLY)


def rows(present: str, absent: str, join: str = "\n", around: tuple[str, str] = ("", "")) -> Writer:
    """A form with one row for each label, whose ``{}`` is its name."""

    def write(labels: Sequence[str]) -> str:
        cells = [(present if label in labels else absent).format(label) for label in CHEXPERT14]
        return around[0] + join.join(cells) + around[1]

    return write


# Of any labels, in the order given; the forms with a row for each label too.
FORMS: dict[str, Writer] = {
    "task list": rows("- [x] {}", "- [ ] {}"),
    "task list, one line": rows("- [X] {}", "- [ ] {}", " / "),
    "boxes": rows("\u2611 {}", "\u2610 {}"),
    "boxes after": rows("{} [x]", "{} [ ]", ", "),
    "ticks": rows("\u2713 {}", "\u2717 {}", "; "),
    "emoji": rows("\u2705 {}", "\u274c {}"),
    "emoji of two characters": rows("\u2714\ufe0f **{}**", "\u2716\ufe0f **{}**"),
    "parentheses": rows("1. (x) {}", "1. ( ) {}"),
    "signs": rows("{} (+)", "{} (-)", ", "),
    "yes": rows("{}: yes", "{}: no"),
    "yes, one line": rows("{}: yes", "{}: no", " / "),
    "emphasis": rows("* **{}:** Present", "* **{}:** Absent"),
    "arrow": rows("{} -> 1", "{} -> 0"),
    "table": rows("| {} | yes |", "| {} | no |", around=("| Finding | Present |\n| --- | :-: |\n", "")),
    "bare table": rows("{} | positive", "{} | negative"),
    "json counts": rows('"{}": 1', '"{}": 0', ", ", ("{{", "}}")),
    "json words": rows('  "{}": true', '  "{}": false', ",\n", ("```json\n{{\n", "\n}}\n```")),
    "heading": lambda x: f"Findings: {', '.join(x)}",
    "heading of its own line": lambda x: "**Labels:**\n" + "\n".join(f"- {label}" for label in x),
    "two headings": lambda x: f"Present: {', '.join(x)}\nAbsent: {', '.join(rest(x))}",
    "two lists": lambda x: "Absent:\n- " + "\n- ".join(rest(x)) + "\nPresent:\n- " + "\n- ".join(x),
    "json": lambda x: json.dumps({"labels": x}),
    "json without quotes": lambda x: "{labels: [" + ", ".join(x) + "]}",
    "json of both": lambda x: json.dumps({"absent": rest(x), "present": x}, indent=2),
    "fence": lambda x: f"```json\n{json.dumps(x)}\n```",
    "python": lambda x: f"{{{str(x)[1:-1]}}}".replace("{{", "{").replace("}}", "}"),
    "bullets": lambda x: "\u2022 " + " \u2022 ".join(x),
    "dashes": lambda x: "\r\n".join(f"\u2013 \u201c{label}\u201d" for label in x),
    "numbered": lambda x: "\n".join(f'{n}) "{label}"' for n, label in enumerate(x, 1)),
    "numbers in brackets": lambda x: ", ".join(f"({n}) **{label}**" for n, label in enumerate(x, 1)),
    "code": lambda x: "".join(f"`{label}`,  " for label in x),
    "semicolons": lambda x: f"{'; '.join(x)}.",
    "and": lambda x: " and ".join(x),
    "oxford comma": lambda x: ", ".join([*x[:-1], f"and {x[-1]}"]),
    "ampersand": lambda x: " & ".join(x),
    "slash": lambda x: "/".join(x),
    "sentences": lambda x: ". ".join(x) + ".",
    "numbers": lambda x: " ".join(f"{n}. {label}" for n, label in enumerate(x, 1)),
    "key of JSON": lambda x: json.dumps({"predicted_labels": x, "absent_labels": rest(x)}),
    "python names": lambda x: f"present = {list(x)}\nabsent = {rest(x)}",
    "denied": lambda x: f"{', '.join(x)}, no {rest(x)[0]}, {rest(x)[1]} or {rest(x)[2]}",
}
# Of any labels: says of none that it is present.
DENIALS: dict[str, Writer] = {
    "no": lambda x: f"no {', '.join(x)}",
    "or": lambda x: f"No evidence of {', '.join(x[:-1])} or {x[-1]}",
    "each": lambda x: ", ".join(f"no {label}" for label in x),
    "without": lambda x: f"heart without {', '.join(x)}",
    "sentence": lambda x: f"There is no sign of {', '.join(x)}.",
    "nor": lambda x: f"neither {' nor '.join(x)}",
    "absent": lambda x: f"{' and '.join(x)}: absent",
    "are absent": lambda x: f"{', '.join(x)} are absent",
    "ruled out": lambda x: f"{', '.join(x)} ruled out",
    "not seen": lambda x: "; ".join(f"{label} is not seen" for label in x),
    "heading": lambda x: f"Ruled out: {', '.join(x)}",
    "heading of its own line": lambda x: "## Negative findings:\n" + "\n".join(x),
    "json": lambda x: json.dumps({"absent": x}),
    "json records": lambda x: json.dumps([{"label": label, "present": False} for label in x]),
    "hedged": lambda x: f"Possible: {', '.join(x)}",
    "alternatives": lambda x: " or ".join([*x, "nothing"]),
    "table": lambda x: "| Finding | Absent |\n|---|---|\n" + "\n".join(f"| {label} | yes |" for label in x),
    "columns": lambda x: f"| {' | '.join(x)} | other |\n|---|---|\n| {' | '.join('no' for _ in x)} | yes |",
    "csv": lambda x: "\n".join(f"{label},no" for label in x),
    "both boxes": lambda x: "\n".join(f"{label}: [ ] present [x] absent" for label in x),
    "another heading": lambda x: f"DDx: {', '.join(x)}",
    "another key": lambda x: json.dumps({"considered_and_left_out": x}),
    "another heading of its own line": lambda x: "Not seen on this film:\n- " + "\n- ".join(x),
    "markdown heading": lambda x: "## Absent\n- " + "\n- ".join(x),
    "bold heading": lambda x: "**Ruled out**\n" + "\n".join(x),
    "plain heading": lambda x: "Findings not present\n- " + "\n- ".join(x),
    "open sentence": lambda x: "There is no evidence of\n- " + "\n- ".join(x),
    "verdict": lambda x: "\n".join(x) + "\nNone of these are present.",
    "pairs": lambda x: json.dumps([[label, False] for label in x]),
    "value below": lambda x: "\n".join(f"**{label}**\nAbsent" for label in x),
    "brackets": lambda x: " ".join(f"{label}(0)" for label in x),
    "or at the end": lambda x: f"{', '.join(x[:-1])}, or {x[-1]}",
    "devoid": lambda x: f"lungs free from {', '.join(x)}",
    "abbreviated": lambda x: f"w/o {', '.join(x)}",
    "Spanish": lambda x: f"sin {', '.join(x)}",
    "Chinese": lambda x: "\u672a\u89c1" + "\u3001".join(x),
    "questions": lambda x: ", ".join(f"{label}?" for label in x),
} | {f"all absent, {name}": (lambda _, form=form: form([])) for name, form in FORMS.items() if form.__name__ == "write"}


def rest(labels: Sequence[str]) -> list[str]:
    return [label for label in CHEXPERT14 if label not in labels]


def dressed(text: str, rng: random.Random) -> str:
    """The same text in other characters: every dress a model or a keyboard may give it."""
    wide = {chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F) if chr(c) not in "-[](){}\"'`*<>"}
    others = {" ": "\u00a0\u202f\u2009\u3000", "-": "\u2010\u2011\u2013\u2014\u2212\uff0d", ",": "\uff0c\u3001"}
    others |= {
        ":": "\uff1a",
        ";": "\uff1b",
        "[": "\u3010\uff3b",
        "]": "\u3011\uff3d",
        '"': "\u201c\u201d",
        "|": "\uff5c",
    }
    unseen = "\u200b\u200d\u2060\ufeff\u00ad\u200f"
    letters = [rng.choice(others[c]) if c in others else wide.get(c, c) if rng.random() < 0.3 else c for c in text]
    return "".join(c + (rng.choice(unseen) if c.isalpha() and rng.random() < 0.1 else "") for c in letters)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_names_exactly_its_labels_in_every_dress(name: str) -> None:
    rng = random.Random(name)
    for _ in range(40):
        labels = rng.sample(CHEXPERT14.labels, rng.randint(1, 6))
        body = FORMS[name](labels).replace("{{", "{").replace("}}", "}")
        for text in (body, body.upper() if "json" not in name else body, dressed(body, rng)):
            parsed = read(text)
            assert parsed.labels == CHEXPERT14.decode(CHEXPERT14.encode(labels)), text
            assert (parsed.duplicates, len(parsed.unknown)) == ((), name == "denied"), text


@pytest.mark.parametrize("name", DENIALS)
def test_every_denial_names_nothing_in_every_dress(name: str) -> None:
    rng = random.Random(name)
    for _ in range(40):
        body = DENIALS[name](rng.sample(rest(["No Finding"]), rng.randint(2, 5)))
        for text in (body, body.lower(), dressed(body, rng)):
            assert read(text.replace("{{", "{").replace("}}", "}")).labels == (), text


def test_names_with_the_words_of_a_list_in_them_stay_whole() -> None:
    odd = LabelSet(
        "odd", ("Mass and Nodule", "Mass", "Pleural/Other", "No Edema", "Absent Kidney", "Yes", "\u0152d\u00e8me")
    )
    for label in odd:
        assert read(f"{label}, Cat", odd).labels == read(f"Labels: {label}", odd).labels == (label,)
        assert parse(format_answer("", [label], "solution_only"), odd, "solution_only").labels == (label,)
    assert read("Mass and Nodule and Mass & \u0153de\u0300me", odd).labels == (
        "Mass and Nodule",
        "Mass",
        odd.labels[-1],
    )


def test_a_form_in_which_nothing_is_present_is_empty_and_earns_no_format_reward() -> None:
    for body in ("- [ ] Edema", "Edema: no, Fracture: no", "Absent: Edema", "\u200b\ufeff", '{"labels": []}'):
        assert read(body).broken == "empty_solution"
        completion = Completion("s", body, read(body), 9)
        assert FormatReward()([completion], [], CHEXPERT14)["valid"].tolist() == [0.0]


@pytest.mark.parametrize("n", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_hostile_text_raises_nothing_and_names_no_label_that_is_not_in_it(n: int) -> None:
    rng = random.Random(n)
    words = re.findall(r"\S+", "no not or and without yes 0 1 Findings: Absent: | --- ``` { } [ ] : , ; / .")
    words += [*CHEXPERT14, "\n", " "]
    words += [form(["Edema", "Fracture"])[:60] for form in FORMS.values()]
    words += [chr(rng.randrange(0x110000)) for _ in words]
    for _ in range(n):
        text = rng.choice(("", " ")).join(rng.choices(words, k=rng.randint(1, 9)))
        parsed = read(text)
        here = "".join(filter(str.isalpha, plain(text).casefold()))
        assert all(label.casefold().replace(" ", "") in here for label in parsed.labels), text
        assert parsed.valid or (parsed.labels, parsed.unknown) == ((), ())


def test_the_plain_form_of_every_character_is_plain() -> None:
    characters = [chr(code) for code in range(0x30000)] + ["\U000e0001", "\U000e0100"]
    assert [c for c in characters if plain(plain(c)) != plain(c)] == []
    shown = {"\u2011": "-", "\u202f": " ", "\u200b": "", "\ufb01": "fi", "\u2019": "'", "\uff1a": ":", "\u3002": "."}
    assert {c: plain(c) for c in shown} == shown
    assert plain("".join(map("".join, product("A\n\t", repeat=3)))) == "".join(map("".join, product("A\n\t", repeat=3)))
