"""The audit page of a data config, and every figure on it as JSON."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template

from chexreason.audit.agreement import agreement as compare
from chexreason.audit.facts import AuditFigures, set_figures, shift
from chexreason.audit.sheet import contact_sheet, formats, look_alikes
from chexreason.audit.warnings import FAIR, FEW, RATIO, far_apart, worries
from chexreason.data.credentialed import of_vendor
from chexreason.data.leakage import LEAK_KINDS, SUSPECTED, Leak
from chexreason.data.manifest import Manifest
from chexreason.files import write_json, write_text
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import LabelPolicy

log = logging.getLogger(__name__)
PAGE_NAME = "audit.html"


def write_audit(
    manifests: Mapping[str, Manifest],
    policies: Mapping[str, LabelPolicy],
    folder: Path,
    *,
    title: str = "Data audit",
    home: str | None = None,
    agreement: Sequence[tuple[str, str]] = (),
    leaks: Sequence[Leak] | None = None,
    credentialed: Collection[str] = (),
    label_lists: Mapping[str, LabelSet] | None = None,
    declared: Mapping[str, str] | None = None,
    attributions: Sequence[Path] = (),
    n_images: int = 24,
    n_resamples: int = 2000,
    seed: int = 0,
) -> AuditFigures:
    """Writes audit.html and audit.json into ``folder`` and returns what the JSON holds.

    ``manifests`` and ``policies`` are by set; ``home`` (default: the first) is the set trained on. ``agreement`` names
    pairs of sets that label the same images; ``leaks`` is what the guard found, None where it was not run; of
    ``credentialed`` sets, and of sets with patients of a credentialed vendor, neither a picture nor an identifier is
    shown; ``label_lists`` are what a set is scored on where that is not all it judges; ``declared`` are texts on policy
    and crosswalk by set; ``attributions`` the licence texts of the images. Raises ValueError on a name that is no set.
    """
    home, lists = home or next(iter(manifests), ""), label_lists or {}
    named = {home, *credentialed, *lists, *(name for pair in agreement for name in pair)}
    if unknown := sorted(named - set(manifests)):
        raise ValueError(f"the audit has no set called {', '.join(unknown)}; it has: {', '.join(manifests) or 'none'}")
    vendors = {name for name, manifest in manifests.items() if manifest.frame["patient_id"].map(of_vendor).any()}
    credentialed = {*credentialed, *vendors}
    figures: AuditFigures = {
        "title": title,
        "home": home,
        "seed": seed,
        "sets": {
            name: set_figures(manifest, policies[name], lists.get(name)) | {"formats": formats(manifest, seed)}
            for name, manifest in manifests.items()
        },
        "agreement": [
            {"first": a, "second": b}
            | compare(manifests[a], manifests[b], (policies[a], policies[b]), n_resamples, seed)
            for a, b in agreement
        ],
        "leaks": None if leaks is None else [_leak(leak, credentialed) for leak in leaks],
        "declared": dict(declared or {}),
        "withheld": sorted(credentialed),
    }
    figures["shift"] = shift(figures["sets"], home)
    for name in credentialed & set(figures["sets"]):
        _name_on_the_terminal_alone(name, figures["sets"][name]["splits"])
        figures["sets"][name]["blank_at"] = []
    figures["worries"] = worries(figures)
    shown = {name: manifest for name, manifest in manifests.items() if name not in credentialed}
    sheets = {"pictures": contact_sheet(shown, n_images, seed), "twins": look_alikes(shown, leaks or (), n_images // 2)}
    licences = [Path(path).read_text(encoding="utf-8") for path in attributions]
    write_json(folder / "audit.json", figures)
    write_text(folder / PAGE_NAME, _render(figures, licences=licences, **sheets))
    return figures


def _render(figures: AuditFigures, **lists: Sequence[object]) -> str:
    """The page as HTML: self-contained, without scripts, every text from the data escaped."""
    return template("audit.html.j2").render(
        figures=figures,
        **lists,
        labels=CHEXPERT14.labels,
        kinds=LEAK_KINDS,
        suspected=SUSPECTED,
        far_apart=far_apart,
        limits={"few": FEW, "ratio": RATIO, "fair": FAIR},
    )


def template(name: str) -> Template:
    """A page of this folder, in which every text is escaped."""
    # Autoescape for every name: select_autoescape() would leave a ".j2" template unescaped.
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def _name_on_the_terminal_alone(name: str, splits: Mapping[str, AuditFigures]) -> None:
    """Takes the studies that are named out of the figures of a credentialed set."""
    for split, part in splits.items():
        if part["zeros_at"]:
            log.info("%s, %s: zeros in all labels, e.g. %s", name, split, ", ".join(part["zeros_at"]))
        part["zeros_at"] = []


def _leak(leak: Leak, credentialed: Collection[str]) -> AuditFigures:
    """A leak as the JSON holds it; identifiers of credentialed patients stay out."""
    hidden = {leak.one, leak.other} & set(credentialed)
    return asdict(leak) | {"sides": list(leak.sides)} | ({"examples": [], "pairs": []} if hidden else {})
