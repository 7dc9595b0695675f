"""A label set, the plain form in which text is compared with its names, and the lists of names that models write."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


@dataclass(frozen=True)
class LabelSet:
    """An ordered, duplicate-free list of label names.

    Raises ValueError on a repeated or empty name.
    """

    name: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({label.casefold() for label in self.labels}) != len(self.labels) or not all(self.labels):
            raise ValueError(f"label set '{self.name}' has an empty or repeated name: {list(self.labels)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def index(self, label: str) -> int:
        """Position of ``label``; raises KeyError naming the label and the set when it is not one of them."""
        try:
            return self.labels.index(label)
        except ValueError:
            raise KeyError(f"unknown label '{label}'; '{self.name}' has: {', '.join(self.labels)}") from None

    @cached_property
    def by_name(self) -> dict[str, str]:
        """The labels by their folded names, long names first."""
        return {folded(label): label for label in sorted(self.labels, key=len, reverse=True)}

    def encode(self, names: Iterable[str]) -> tuple[int, ...]:
        """Multi-hot tuple [L] of ``names``; raises KeyError on a name outside the set."""
        wanted = {self.index(name) for name in names}
        return tuple(int(i in wanted) for i in range(len(self.labels)))

    def decode(self, hot: Iterable[int | bool]) -> tuple[str, ...]:
        """Names of the set positions of a multi-hot vector [L], in label order."""
        return tuple(name for name, on in zip(self.labels, hot, strict=True) if on)


# The plain form of what Unicode keeps apart: by category, and of other characters one by one.
_KINDS = {"Zs": " ", "Zl": "\n", "Zp": "\n", "Pd": "-", "Ps": "[", "Pe": "]", "Pi": '"', "Pf": '"', "Cf": "", "Cc": ""}
_ALIKE = str.maketrans(
    "\u2018\u2019\u201b\u2032\u02bc\u2212\u2192\u3001\u060c\u3002\u061b\u2236\u2044\u2023\u2043\u25aa\u25cf\u25e6\u2219\u00b7\u30fb",
    "'''''->,,.;:/••••••••",
)
_UNSEEN = re.compile("VARIATION SELECTOR|FILLER|GRAPHEME JOINER")  # names of characters that show nothing


class _Forms(dict[int, str]):
    def __missing__(self, code: int) -> str:
        whole = unicodedata.normalize("NFKC", chr(code)).translate(_ALIKE)
        self[code] = "".join(c if c.isascii() and (c.isspace() or c.isprintable()) else _by_kind(c) for c in whole)
        return self[code]


def _by_kind(character: str) -> str:
    unseen = _UNSEEN.search(unicodedata.name(character, ""))
    return "" if unseen else _KINDS.get(unicodedata.category(character), character)


_FORMS = _Forms()


def plain(text: str) -> str:
    """``text`` in the one form in which it is matched with names and patterns, of answers and of reasoning alike.

    Full-width letters and ligatures are ASCII letters (NFKC), all spaces, dashes and quotation marks are one each,
    ideographic punctuation is ASCII, invisible characters are gone. It goes character by character: ``plain`` of plain
    text is that text. What is stored and shown stays as it was written.
    """
    return text.translate(_FORMS)


def folded(text: str) -> str:
    """The plain form of a name without regard to case and spaces: two names that fold alike are one."""
    return unicodedata.normalize("NFKD", " ".join(plain(text).split()).casefold())


Item = tuple[str, tuple[str, ...]]  # as written, and the labels that it names; without labels it is an unknown one

_WRAPPING = " \t\f\v\u00a0\"'`“”\u2018\u2019[](){}.*_-\u2013"
_NUMBERING, _BULLET = re.compile(r"\d+[.):]\s*"), re.compile(r"\s*[-*•+\d]")
_LINE, _CLAUSE, _PIECE = re.compile(r"[^\n\r]+"), re.compile(r"[^;•]+"), re.compile(r"(?:[^,/]|(?<! )/|/(?! ))+")
# The language of a code block and the outer lines of a table: they say nothing.
_FENCE, _EDGE = re.compile(r"```([^\s`\[{]*)(?=\s*[\n\r\[{])"), re.compile(r"(?m)^[ \t]*\||\|[ \t]*$")
# Before the names of an item, and between them.
_START = re.compile(r"[\s\"'`\[\](){}.*_-]*(?:\d+[.)]|[1-9]\d*:)?[\s\"'`\[\](){}.*_-]*(?:(?:and|but|plus|also|&) )?")
_JOIN = re.compile(r"[\"'`*_ ]*(?:\b(?:and|plus|with|as well as)\b|[&+/]|\. |\(?[1-9]\d*[.)])[\"'`*_ ]*")
# The marks and words by which a form says that a label is present, or absent.
_MARK = re.compile(r"[\[(] ?([^\w\s)]|[xyn]|yes|no|) ?[\])]|([✓✔☑✅☐✗✘✖✕❌⬜])")
_BOX = re.compile(rf"[\s\"'`*_.-]*(?:\d+[.):] ?)?({_MARK.pattern})")
_PRESENT = re.compile(r"[✓✔☑✅+1y]|1\.0|yes|true|present|positive|detected|identified|confirmed|seen|found")
_ABSENT = re.compile(rf"[☐✗✘✖✕❌⬜0n-]|0\.0|non?e?|false|absent|negative|excluded|ruled out|not (?:{_PRESENT.pattern})")
_DENIAL = re.compile(
    r"\b(?:no|not|without|w/o|absen\w+|neither|nor|none|nothing|never|cannot|neg|negatives?|(?:clear|free|devoid) (?:of"
    r"|from)|except|all but|minus|rule[sd]?[ -]out|r/o|exclud\w+|reject\w+|discard\w+|den(?:y|ies|ied)|lack\w*|unlikely"
    r"|little|rather than|instead of|either|one of|sin|sans|pas|ohne|nicht|keine?|нет|не|без)\b|n't\b|[无無未没沒不否]"
)
# What is said of a whole list after it; headings of what is not said to be present, and of what is.
_VERDICT = re.compile(r"(?:all|both|none|neither|not|are|is)\b(?! (?:of the )?(?:other|remain|rest)).*")
_UNMEANT = re.compile(
    rf"{_DENIAL.pattern}|\b(?:normal|un\w+|possible|probable|likely|suspected|potential|differential|alternative"
    r"|considered|prior|previous|past|resolved)\b"
)
_ONE = "label|finding|diagnosis|condition|answer|impression|conclusion|solution"
_LISTED = rf"(?:(?:{_ONE}|positive)s?|diagnoses|abnormalities|present|detected|observed|definite|primary|secondary|yes)"
_HEADING = re.compile(
    rf"(?=.*\b{_LISTED}\b)(?:(?:{_LISTED}|the|my|all|list|of|here|are|is|following|final|key|main|pertinent|abnormal"
    r"|chexpert|chest|x-ray|image|radiographic|predicted|identified|selected)(?: |$))+"
)


class _Said(NamedTuple):
    """What a piece says of the ``labels`` that it opens with: whether they are ``present``, or are its ``bare`` names.

    ``present`` is None where more is left beside names, box and value: the piece is no plain statement then.
    """

    labels: tuple[str, ...]
    present: bool | None
    bare: bool


def read_list(text: str, names: Mapping[str, str]) -> list[Item]:
    """Every item of a list in order; ``names`` maps folded names to labels, long names first. Takes linear time.

    The text is cut into lines, a line into clauses (at ";" and bullets), a clause into pieces (at "," and "/"):

        Findings: Edema, Fracture / no Mass    a heading and three pieces, the last of which denies
        - [x] Edema                            a box before a name; a name may have a value after it, "Edema: yes"
        | Edema | yes |                        a row of a table, read as "Edema = yes"
        {"absent": ["Mass"], "present": [      headings of brackets: they hold until the next one

    An item names a label only where nothing but names, a value and punctuation is in it. What is marked absent is no
    item; what is denied in words ("no A, B or C", one item), hedged or listed under an odd heading is an unknown one.
    """
    reader = _Reader(text, names)
    reader.read()
    return [(item, labels) for start, end, labels in reader.found if (item := _bare(text[start:end]))]


class _Reader:
    """A list as it is read: the items so far, each a stretch of the text [start, end) with the labels that it names.

    ``meant`` is whether the heading above lists what is present: False under "Absent:", None under other words. It
    holds to the end of its line (``in_line``); where a bracket or nothing follows the colon, to the next heading.
    """

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        # Plain where that moves no character: separators and brackets are found at their place in the text.
        marked = text if text.isascii() else "".join(c if len(form := plain(c)) != 1 else form for c in text)
        marked = _FENCE.sub(lambda x: x[0] if folded(x[1]) in names else " " * len(x[0]), marked)
        self.marked, self.names = marked.replace("= [", ": [").replace("=[", ":["), names
        self.found: list[tuple[int, int, tuple[str, ...]]] = []
        self.meant: bool | None = True
        self.in_line, self.is_headed, self.is_form = False, False, self.marked.count(":") > 1

    def read(self) -> None:
        """Reads line by line."""
        lines = list(_LINE.finditer(self.marked))
        rules = ["|" in line[0] and not folded(line[0]).strip(" |:+-") for line in lines] + [False]  # "|---|---|"
        self.marked = _EDGE.sub(lambda edge: " " * len(edge[0]), self.marked).replace("|", "=")
        for number, line in enumerate(lines):
            self.meant, self.in_line = self.in_line or self.meant, False
            head = _said(self._key(*line.span()), self.names) if rules[number + 1] else None
            if head and (head.present is None or head.bare):  # the column names of a table
                self.meant = not _UNMEANT.search(folded(line[0]))
            elif not rules[number]:
                for clause in _CLAUSE.finditer(self.marked, *line.span()):
                    self._clause(*clause.span())
                self._title(line, lines[number + 1 : number + 2])

    def _key(self, start: int, end: int) -> str:
        return folded(self.marked[start:end])

    def _clause(self, start: int, end: int) -> None:
        """Reads what stands between semicolons: "no A, B or C" is one unknown item, and "A, B and C are absent"."""
        first, bares, denied, ends_denied = len(self.found), [], False, False
        for piece in _PIECE.finditer(self.marked, start, end):
            begin = self._after_headings(*piece.span())
            key = self._key(begin, piece.end())
            item = _bare(key)
            if denied and begin == piece.start():  # B of "no A, B"
                self._join(1, piece.end())
            elif item:
                labels, present, bare = _said(key, self.names)
                if present is None or (present and self.meant is not False):
                    self.found.append((begin, piece.end(), labels if present and (self.meant or not bare) else ()))
                denial = None if bare else _DENIAL.search(key, key.rfind(". ") + 1)
                denied = bool(present is None and denial and self._names_one(key[denial.end() :]))
                # "C are absent", "none of these", of all before it; not "all others are absent".
                of_all = denial and ((labels and "other" not in key[denial.start() :]) or _VERDICT.fullmatch(item))
                is_absent = present is False or _means(item) is False
                if is_absent and not labels and len(self.found) > 1 + self.is_headed * first:
                    self._join(2, piece.end())  # "Edema, 0"; "absent" below "Edema"
                ends_denied = is_absent or bool(of_all and not denied) or item.startswith("or ")
                bares.append(bare and begin == piece.start())
        if ends_denied and len(bares) > 1 and all(bares[:-1]):
            self.found[first:] = [(start, end, ())]

    def _join(self, n: int, end: int) -> None:
        """Makes one unknown item, up to ``end``, of what begins with the last item, or with the one before (n = 2)."""
        self.found[-n:] = [(self.found[-n][0], end, ())]

    def _names_one(self, key: str) -> bool:
        return any(name in key for name in self.names)

    def _title(self, line: re.Match[str], after: list[re.Match[str]]) -> None:
        """Takes a line without names for a heading of the lines after it, or for a verdict on the list before it."""
        key = self._key(*line.span())
        head = _bare(key.strip(f"#:{_WRAPPING}"))
        if not head or self._names_one(key):
            return
        is_title = key[0] == "#" or key[:2] == key[-2:] == "**" or key.strip("*_").endswith((":", " of", " for", " -"))
        is_above = bool(after and _BULLET.match(after[0][0])) and not _BULLET.match(line[0])
        if is_title or _lists(head) or _ABSENT.fullmatch(head) or (is_above and _lists(head) is False):
            self.meant, self.in_line, self.is_headed = _lists(head), False, True
        elif _VERDICT.fullmatch(head) and _DENIAL.search(head) and self.found and not self.is_headed:
            self._join(len(self.found), line.end())

    def _after_headings(self, start: int, end: int) -> int:
        """Where a piece goes on after its headings: ``{"labels": ["Edema"`` at the bracket."""
        while (colon := self.marked.find(":", start, min(start + 60, end))) >= 0:
            head = _bare(folded(self.marked[start:colon].replace("_", " ")).lstrip("# "))
            after = self._key(colon + 1, min(colon + 40, end)).lstrip(" \"'*_`")[:1]
            # A number, a row of a form; one "label: Edema" of many may be followed by "present: no".
            is_record = _lists(head) and head.endswith(tuple(_ONE.split("|"))) and after not in "[{" and self.is_form
            if is_record or head.startswith(tuple(self.names)) or (head.isdigit() and head.strip("0")):
                break
            self.meant, self.in_line, self.is_headed = _lists(head), after not in "[{", True
            if self.meant is None:
                break
            start = colon + 1
        return start


def _said(key: str, names: Mapping[str, str]) -> _Said:
    """What the piece ``key`` says: "[x] edema", "edema and fracture: yes", "edema"."""
    if key in names:
        return _Said((names[key],), True, True)
    box = _BOX.match(key)
    ticked = _value(box[1]) if box else None
    start = box.end() if box and ticked is not None else 0
    text = _START.sub("", key[start:], count=1)
    labels, end, at = [], 0, 0
    while name := next((name for name in names if text.startswith(name, at)), ""):
        labels.append(names[name])
        end = at + len(name)
        at = join.end() if (join := _JOIN.match(text, end)) else len(text)
    has_two_marks = _MARK.search(key[start : len(key) - len(text)])
    present = None if has_two_marks or not labels else _value(text[end:])
    bare = bool(present) and ticked is None and not text[end:].strip(_WRAPPING)
    return _Said(tuple(labels), present and ticked is not False, bare)


def _value(rest: str) -> bool | None:
    """What stands after a name: True for present or for nothing, False for absent, None for anything else."""
    text = rest.strip(" \"'`*_.")
    value = re.sub(r"\A-+>? ", "", text.lstrip(" :=>\"'`*_"))
    if box := _MARK.search(value):
        mark = box[1] or box[2] or "-"
        return None if box[0] != value else mark == "x" or _means(mark)
    word = value.strip(" \"'`*_.[](){}")
    if not word.strip("-") and value != "-":
        return None if set(text) & set(":=>") else True
    return _means(word) or (None if text[0].isalpha() else _means(word))  # "Edema absent" is a denial in words


def _means(word: str) -> bool | None:
    return True if _PRESENT.fullmatch(word) else False if _ABSENT.fullmatch(word) else None


def _lists(head: str) -> bool | None:
    """Whether a heading lists what is present; None where its words do not say."""
    return False if _UNMEANT.search(head) else True if _HEADING.fullmatch(head) else None


def _bare(piece: str) -> str:
    """An item as written, without bullets, numbering, quotes, brackets and the final period."""
    item = piece.strip().strip(_WRAPPING)
    numbering = _NUMBERING.match(item)
    return item[numbering.end() :].strip(_WRAPPING) if numbering else item
