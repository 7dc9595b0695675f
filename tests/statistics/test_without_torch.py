"""A report needs no model: reading, scoring and auditing import neither torch nor what is built on it."""

from __future__ import annotations

import subprocess
import sys

PAGES = ("report", "result_table", "ranking_page", "transfer_page")
ROOMS = (*(f"reports.{page}" for page in PAGES), "audit.audit_page", "statistics.transfer", "statistics.kappa")


def test_no_torch_is_imported() -> None:
    names = ", ".join(f"chexreason.{room}" for room in ROOMS)
    code = f"import sys, {names}; print(sorted({{'torch', 'torchmetrics'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
