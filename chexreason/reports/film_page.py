"""The files of predicted films: a csv, JSON lines, call rates by week, and a page to read them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from chexreason.data.prepare import QUARANTINE_NAME
from chexreason.data.sources.film_folder import MIN_SIDE
from chexreason.files import write_text
from chexreason.reports.charts import week_chart
from chexreason.reports.tables import csv_text

_HERE = Path(__file__).parent
_SHOWN = 2_000  # rows of the page; the files hold all


def write_films(
    out: Path,
    rows: pd.DataFrame,
    said: Sequence[str],
    weeks: pd.DataFrame | None,
    prepared: Path,
    root: Path,
    left_out: Sequence[str] = (),
) -> None:
    """Writes predictions.csv, .jsonl and .html into ``out``: no picture, no tag of a header.

    What could not be read of the films below ``root`` is in their ``prepared`` folder, and goes to broken.csv, as do
    those ``left_out`` for their size; ``weeks`` go to drift.csv.
    """
    write_text(out / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows.to_dict("records")))
    flat = rows.map(lambda cell: "; ".join(cell) if isinstance(cell, tuple) else cell)
    write_text(out / "predictions.csv", csv_text(flat))
    broken = pd.DataFrame(columns=["path", "reason"])
    if (prepared / QUARANTINE_NAME).is_file():
        broken = pd.read_csv(prepared / QUARANTINE_NAME, dtype=str, keep_default_na=False)
        broken["path"] = [os.path.relpath(path, root) for path in broken["path"]]
    small = sorted({*left_out} - {*broken["path"]})
    reason = f"a side has fewer than {MIN_SIDE} pixels"
    broken = pd.concat([broken, pd.DataFrame({"path": small, "reason": [reason] * len(small)})], ignore_index=True)
    write_text(out / "broken.csv", broken.to_csv(index=False))
    if weeks is None:
        (out / "drift.csv").unlink(missing_ok=True)  # of a start with another date_column
    else:
        write_text(out / "drift.csv", csv_text(weeks))
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("films.html.j2").render(
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        said=said,
        rows=flat.head(_SHOWN).to_dict("records"),
        n=len(rows),
        scored=[column for column in map(str, rows) if column.startswith(("score ", "probability "))],
        broken=broken.to_dict("records"),
        chart="" if weeks is None else Markup(week_chart(weeks)),
    )
    write_text(out / "predictions.html", page)
