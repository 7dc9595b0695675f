"""The rewards command: its tables on a terminal, in files, and its refusals."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import spearmanr

from chexreason.cli import rewards as command
from tests.support.configs import composed

pytestmark = pytest.mark.slow
TEXT = "<think>seen</think><solution>{}</solution>"


def printed(show, found) -> str:
    console = Console(width=200, file=io.StringIO())
    show(found, console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def chexpert() -> dict:
    return command.adversarial(composed("rewards", "studies=chexpert", "only=[hard, nuanced]"))


def test_all_labels_reach_the_macro_f1_computed_from_the_published_counts(chexpert):
    rows = {row["policy"]: row for row in chexpert["rewards"]["hard"]["rows"]}
    assert rows["all_labels"]["macro_f1"] == pytest.approx(0.291, abs=5e-4)
    assert [name for name, row in rows.items() if row["honest"]] == ["F1 0.9", "F1 0.7", "F1 0.5", "F1 0.3"]
    assert [name for name, row in rows.items() if row["out_earns"]] == ["best_constant"]
    assert rows["best_constant"]["macro_f1"] < rows["F1 0.3"]["macro_f1"]


def test_tables_are_printed_and_written(chexpert, tmp_path):
    page = printed(command.show, chexpert)
    assert "hard: what policies earn on 500 studies (chexpert)" in page
    assert "out-earns F1 0.5" in page
    assert page.count("best_constant") == 5  # two rows, the labels of each, one explanation
    rows = [{"reward_name": "hard"} | row for row in chexpert["rewards"]["hard"]["rows"]]
    command.write_earnings(tmp_path, "adversarial", chexpert, rows)
    assert json.loads((tmp_path / "adversarial.json").read_text()) == chexpert
    with (tmp_path / "adversarial.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows)
    assert float(lines[0]["parts/jaccard"]) == pytest.approx(rows[0]["parts"]["jaccard"])


def test_the_tables_of_the_docs_are_what_the_command_prints(chexpert):
    page = (Path(__file__).parents[2] / "docs" / "REWARDS.md").read_text()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if "|" in line]
    shown = [cells for cells in found if re.fullmatch(r"F1 0\.\d|`\w+`( .*)?", cells[0])]
    by_label = [cells for cells in shown if len(cells) == 7]
    shown = [cells for cells in shown if len(cells) != 7]
    rows = [row for reward in ("hard", "nuanced") for row in chexpert["rewards"][reward]["rows"]]
    assert [re.sub(r"`| \*.*", "", cells[0]) for cells in shown] == [row["policy"] for row in rows]
    assert [cells[0] for cells in shown if "above" in cells[0]] == ["`best_constant` **(above F1 0.5)**"]
    for cells, row in zip(shown, rows, strict=True):
        assert float(cells[1]) == pytest.approx(row["reward"], abs=0.0006 if len(cells) == 5 else 0.51)
        scores = [row[name] for name in ("sample_f1", "macro_f1", "micro_f1")]
        assert [float(cell) for cell in cells[-3:]] == pytest.approx(scores, abs=0.0006)
    others = command.adversarial(composed("rewards", "studies=chexpert", "only=[macro_f1, balanced]"))["rewards"]
    for place, reward in ((1, "macro_f1"), (4, "balanced")):
        earned = {row["policy"]: row for row in others[reward]["rows"]}
        assert {cells[0].strip("`") for cells in by_label} == set(earned)
        for cells in by_label:
            row = earned[cells[0].strip("`")]
            parts = [row["reward"], row["parts"]["true_positive"], row["parts"]["false_positive"]]
            assert [float(cell) for cell in cells[place : place + 3]] == pytest.approx(parts, abs=0.0006)


def test_the_rank_correlations_of_the_docs_are_scipys(chexpert):
    page = (Path(__file__).parents[2] / "docs" / "REWARDS.md").read_text().replace("\n", " ")
    for name, table in chexpert["rewards"].items():
        earned = [row["reward"] for row in table["rows"]]
        values = {k: spearmanr(earned, [row[k] for row in table["rows"]])[0] for k in ("sample_f1", "macro_f1")}
        assert table["rank_correlation"] == pytest.approx(values, abs=1e-6)
        assert f"{values['sample_f1']:.2f} and {values['macro_f1']:.2f} under {name}" in page
        shown = f"{values['sample_f1']:.2f} with the F1 of an answer, {values['macro_f1']:.2f} with macro-F1"
        assert shown in " ".join(printed(command.show, chexpert).split())


def test_a_file_is_scored_under_every_reward(tmp_path):
    path = tmp_path / "mine.jsonl"
    answers = [("Edema", ["Edema"]), ("Edema", ["Edema", "Fracture"]), ("Fracture", ["Edema"])] * 5
    lines = [json.dumps({"text": TEXT.format(said), "labels": truth, "tokens": 300}) for said, truth in answers]
    path.write_text("\n".join(lines))
    found = command.scored_file(composed("rewards", f"completions={path}", "n_resamples=50"))
    rows = {row["reward_name"]: row for row in found["rows"]}
    assert list(rows) == ["hard", "nuanced", "macro_f1", "balanced", "mix"]
    assert rows["hard"]["reward"] == pytest.approx(0.5)
    assert rows["hard"]["rank_correlation"] == pytest.approx(1.0)
    assert rows["nuanced"]["metrics"] == pytest.approx({"jaccard": 0.5})
    assert "1.000 [1.000, 1.000]" in printed(command.show_file, found)
    path.write_text(lines[0])
    alone = command.scored_file(composed("rewards", f"completions={path}", "only=[hard]"))["rows"][0]
    assert alone["rank_correlation"] is None
    assert "undefined" in printed(command.show_file, {"rows": [alone], "n": 1, "completions": "x"})


def test_wrong_choices_are_refused_with_the_right_ones():
    with pytest.raises(ValueError, match=r"no reward \['soft'\]; there are hard, nuanced, macro_f1, balanced, mix"):
        command.adversarial(composed("rewards", "only=[soft]"))
    with pytest.raises(ValueError, match="studies=mimic: choose phantom, chexpert or prepared"):
        command.adversarial(composed("rewards", "studies=mimic"))
