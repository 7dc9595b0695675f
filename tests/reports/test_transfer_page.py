"""The transfer report as files, from synthetic answers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.reports.provenance import Origin
from chexreason.reports.transfer_page import write_transfer
from chexreason.reports.verdict import transfer_sentence
from chexreason.statistics.bootstrap import Interval
from chexreason.types import Prediction

SETS = {"home": "phantom_a", "away": ["phantom_b"], "label_set": CHEXPERT14}
QUICK = {"n_resamples": 20, "n_permutations": 20}


@pytest.mark.slow
def test_the_page_says_no_more_than_the_intervals(make_arm, tmp_path: Path) -> None:
    arms = {"base": {0: make_arm(0.55)}, "sft": {0: make_arm(0.75)}, "grpo": {0: make_arm(0.8), 1: make_arm(0.85)}}
    said = write_transfer(arms, tmp_path, **SETS, origins={"sft": Origin("test")}, n_resamples=100, n_permutations=100)
    page = (tmp_path / "transfer.md").read_text()
    assert "data not recorded); split test: 20 studies at phantom_a, 20 studies at phantom_b." in page
    assert said[0].startswith("Changes are of the macro-F1 over the 9 labels that all of phantom_a and phantom_b judge")
    assert said[1].startswith("Compared with base, sft gains 0.")
    assert "**Transfer: macro-F1 over the 9 labels that all sets judge**" in page
    assert "macro-F1 at home: phantom_a, 14 labels of chexpert14" in (tmp_path / "pareto_phantom_b.svg").read_text()
    assert all(sentence in page for sentence in said)
    assert "adjusted for all 2 tests of this table (Holm)" in page
    assert "| base → grpo | phantom_b | +0." in page
    assert " | — | " in page  # no p: other numbers of seeds
    assert "From medgemma_sft to chexreason the printed macro-F1 changes by +0.064 on CheXpert, over 14 labels" in page
    lines = (tmp_path / "transfer.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 * 3
    assert lines[1].startswith("base,sft,home,phantom_a,change,0.")
    assert lines[1].endswith(",test,not recorded,not recorded")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Interval(0.06, 0.02, 0.1), "gains 0.060 [0.020, 0.100] at home"),
        (Interval(-0.05, -0.09, -0.01), "loses 0.050 [0.010, 0.090] at home"),
        (Interval(0.01, -0.02, 0.04), "shows no clear difference (+0.010 [-0.020, +0.040]) at home"),
        (Interval(0.2, math.nan, math.nan), "changes by +0.200, of unknown precision, at home"),
    ],
)
def test_a_sentence_is_worded_by_its_interval(change: Interval, words: str) -> None:
    said = transfer_sentence("SFT", "GRPO", {"home": change, "away": Interval(-0.05, -0.09, -0.01)})
    assert said == f"Compared with SFT, GRPO {words} and loses 0.050 [0.010, 0.090] at away."


def test_below_answering_all_labels_is_said_first(make_arm, tmp_path: Path) -> None:
    arms = {"base": {0: make_arm(0.5)}, "sft": {0: [replace(p, predicted=p.predicted[:1]) for p in make_arm(0.5)]}}
    said = write_transfer(arms, tmp_path, **SETS, **QUICK)[1]
    assert said.startswith("sft is below answering all labels at phantom_a and at phantom_b. Compared with base, sft ")


def test_without_a_common_label_no_change_is_given(make_arm, tmp_path: Path) -> None:
    def apart(rows: list[Prediction]) -> list[Prediction]:
        kept = {"phantom_a": CHEXPERT14.labels[:7], "phantom_b": CHEXPERT14.labels[8:]}
        return [
            replace(p, **{f: tuple(x for x in getattr(p, f) if x in kept[p.dataset]) for f in ("truth", "labelled")})
            for p in rows
        ]

    arms = {arm: {0: apart(make_arm(q))} for arm, q in (("base", 0.6), ("sft", 0.8))}
    said = write_transfer(arms, tmp_path, **SETS, **QUICK)
    assert said == ["No label is judged by all of phantom_a and phantom_b: changes between them are not compared."]
    assert len((tmp_path / "transfer.csv").read_text().splitlines()) == 1
    assert "→ sft |" not in (tmp_path / "transfer.md").read_text()
