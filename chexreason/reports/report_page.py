"""The page of a report as HTML: figures and cases into the templates beside this file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, cycle
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from chexreason.files import write_bytes, write_text
from chexreason.reports.cases import Case
from chexreason.reports.charts import curve_charts, transfer_charts
from chexreason.reports.figures import PALETTE
from chexreason.reports.history import Curve
from chexreason.reports.payload import StudyFigures
from chexreason.reports.pictures import data_uri, file_address, forget_pictures
from chexreason.reports.study_tables import arm_title, label_tables, point_tables, score_tables, stage_table
from chexreason.reports.tables import BELOW, COVERAGE
from chexreason.statistics.trivial import TRIVIAL_ANSWERS

_HERE = Path(__file__).parent


def write_page(
    out: Path,
    figures: StudyFigures,
    runs: Mapping[str, Mapping[str, Curve]],
    cases: Sequence[Case],
    attributions: Sequence[str],
    *,
    embedded: bool = True,
    withheld: Collection[str] = (),
) -> None:
    """Writes ``<out>/report.html``: every text from data or models escaped, nothing asked of any other machine.

    Its images are ``embedded`` or lie beside it. One script of our own filters the cases; the page's policy names it by
    its hash and forbids every other, and without it the page reads the same.
    """
    # Autoescape for every name: select_autoescape() would leave a ".j2" template unescaped.
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    arms = list(figures["arms"])
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2").render(
        figures=figures,
        arm_title=arm_title,
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=_hash(script),
        image_source="data:" if embedded else "'self' file:",  # a page opened from disk has no origin to be 'self'
        address=data_uri if embedded else file_address,
        transfer=[Markup(svg) for svg in transfer_charts(figures)],
        tables=score_tables(figures),
        label_tables=label_tables(figures),
        point_tables=point_tables(figures),
        charts=[Markup(svg) for run, curves in runs.items() for svg in curve_charts(curves, arm_title(run))],
        cases=cases,
        labels=_labels(figures, cases),
        sets=list(dict.fromkeys(case.dataset for case in cases)),
        arms=arms,
        pairs=list(combinations(arms, 2)),
        colours=dict(zip(arms, cycle(PALETTE), strict=False)),
        withheld=sorted(withheld),
        attributions=attributions,
        stages=stage_table(figures["stages"]),
        trivial=TRIVIAL_ANSWERS,
        below=BELOW,
        coverage=COVERAGE,
    )
    # Pictures before the page that shows them, and the old ones go last: the page is whole at every moment.
    beside = [] if embedded else [case.image for case in cases if case.image]
    for jpeg in beside:
        write_bytes(out / file_address(jpeg), jpeg)
    write_text(out / "report.html", page)
    forget_pictures(out, beside)


def _labels(figures: StudyFigures, cases: Sequence[Case]) -> list[str]:
    """The labels that some case's truth or answer names, in the order of the data sets' own."""
    found = {label for case in cases for label in case.truth}
    found |= {label for case in cases for answer in case.answers for label, _ in answer.marks}
    ordered = dict.fromkeys(label for facts in figures["sets"].values() for label in facts["labels"])
    return [label for label in ordered if label in found]


def _hash(script: str) -> str:
    """The script's name in a Content-Security-Policy (W3C CSP level 3, 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
