"""docs/LABELS.md: the policies, the label lists and the vendors' crosswalks, from the code that applies them.

python -m tools.labels_page > docs/LABELS.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chexreason.labels.catalog import LABEL_SETS
from chexreason.labels.crosswalk import NIH, NIH14, names_of, never_judged
from chexreason.labels.declare import in_words
from chexreason.labels.uncertainty import BLANK, LABEL_POLICIES, UNCERTAIN


def document() -> str:
    """The whole page."""
    return (
        "\n\n".join(
            [_POLICIES, _policy_table(), _LISTS, _list_table(), _CROSSWALK, _nih_table(), _END, *map(_vendor, _OTHERS)]
        )
        + "\n"
    )


_POLICIES = f"""# Labels: policies, lists and crosswalks

Written by `python -m tools.labels_page > docs/LABELS.md`; a test compares it with the code.

## Policies

A source marks a class of an image as present (1), absent (0), uncertain (-1) or not at all (blank). A policy turns the
last two into truth. It is set for each set of a data config, travels with every prediction and stands beside every
figure; arms scored under different policies are not compared. A class without any mark in a set's manifest is one its
source never judges: it is masked under every policy. A masked entry is neither a hit, a false positive nor a miss.

`policy:` takes a preset or spells one out, as `{{name: mine, uncertain: masked, blank: negative}}`: uncertain is one of
{", ".join(UNCERTAIN)}; blank is one of {", ".join(BLANK)}."""

_LISTS = """`positives_only` is the paper's ("only positive labels count"). It suits sources that list what a report
mentions (MIMIC-CXR, CheXpert); in a partial table a blank means that nobody asked, and `zeros`, `ones` or `ignore`
leave it out.

## Label lists

`label_list:` of a set in a data config names the list it is scored with; its other classes are masked, and predictions
outside it are dropped. Without one, a set is scored on every class its source judges."""

_CROSSWALK = """## NIH ChestX-ray14 to CheXpert"""

_END = f"""Never judged by NIH, hence masked: {", ".join(never_judged(NIH))}.
Lung Opacity is derived, not read, and is left out with `include_opacity: false` of the source.

`python -m chexreason.cli.prepare` prints such a declaration of every set, with the columns of a table
(`label_columns`) in place of NIH's names."""


_OTHERS = {
    "padchest": """PadChest to CheXpert

A name that is not listed has no label. A report is read as judging all fourteen labels: what it leaves out is absent. A
report that says only `unchanged`, `exclude` or `suboptimal study`, or nothing, is left out. `normal` is No Finding
unless more than a device stands beside it. The names are known from public descriptions alone.""",
    "vindr": """VinDr-CXR to CheXpert

A film of train has three readers. A reader's columns become labels; a label is then what most readers say, and a tie is
uncertain (-1). The test set is a consensus, one row a film. Boxes are not read. The names are known from public
descriptions alone.""",
}


def _vendor(vendor: str) -> str:
    names = names_of(vendor)
    table = markdown(("CheXpert label", "any of these makes it positive"), [(k, ", ".join(names[k])) for k in names])
    return f"## {_OTHERS[vendor]}\n\n{table}\n\nNever judged, hence masked: {', '.join(never_judged(names)) or 'none'}."


def _policy_table() -> str:
    rows = [(f"`{p.name}`", p.uncertain, p.blank, in_words(p)) for p in LABEL_POLICIES.values()]
    return markdown(("preset", "uncertain (-1)", "blank", "in words"), rows)


def _list_table() -> str:
    rows = [(f"`{s.name}`", str(len(s)), ", ".join(s)) for s in LABEL_SETS.values()]
    return markdown(("list", "n", "labels"), rows)


def _nih_table() -> str:
    rows = [(theirs, ours or "none", derived) for theirs, ours, derived in NIH14.rows()]
    return markdown(("NIH's name", "CheXpert label", "derived from it"), rows)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells as Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


if __name__ == "__main__":
    print(document(), end="")
