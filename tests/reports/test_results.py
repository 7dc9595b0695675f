"""The paper's tables and figures with our runs in them, from synthetic answers."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.reports.figures import draw_curves, draw_pareto, draw_printed, front
from chexreason.reports.history import Curve
from chexreason.reports.printed import all_labels
from chexreason.reports.provenance import Origin
from chexreason.reports.ranking_page import write_ranking
from chexreason.reports.result_table import write_table
from chexreason.reports.transfer_page import write_transfer
from chexreason.statistics import score_files as label_scores
from chexreason.statistics.bootstrap import Interval, replicates
from chexreason.statistics.predictions import datasets
from chexreason.types import Prediction

FAST = {"label_set": CHEXPERT14, "n_resamples": 100}


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def _table(name: str, runs: dict, out: Path, dataset: str = "phantom_a", **options: object) -> dict:
    """The lines of the table's CSV by row and column."""
    write_table(name, runs, out, dataset=dataset, **FAST, **options)
    return {(row["row"], row["column"]): row for row in _rows(out / f"{name}.csv")}


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def runs(make_arm) -> dict:
    return {"only_label": {0: make_arm(0.6)}, "reasoning_a": {0: make_arm(0.7), 1: make_arm(0.75)}}


def test_ours_stands_beside_the_printed_figure_with_its_interval(runs: dict, tmp_path: Path) -> None:
    found = _table("table2", runs, tmp_path)
    one = found["only_label", "macro_f1"]
    sample = replicates(datasets(runs["only_label"][0])["phantom_a"], CHEXPERT14.labels, 100)
    assert float(one["ours"]) == pytest.approx(sample.value["macro_f1"], abs=1e-6)
    assert float(one["low"]) < float(one["ours"]) < float(one["high"])
    assert (one["paper"], one["seeds"], one["seed_min"], one["status"]) == ("0.241", "1", "", "measured")
    text = (tmp_path / "table2.md").read_text()
    assert f"| {float(one['ours']):.3f} [{float(one['low']):.3f}, {float(one['high']):.3f}] | 0.241 |" in text
    assert "Label policy not recorded (phantom_a, 14 labels of chexpert14, data not recorded); split not" in text
    assert found["all_labels", "micro_recall"]["ours"] == "1.000000"
    assert found["nothing", "macro_f1"]["status"] == "trivial"


def test_a_run_that_is_missing_is_shown_as_missing_and_never_as_zero(runs: dict, tmp_path: Path) -> None:
    not_run = write_table("table2", runs, tmp_path, dataset="phantom_a", **FAST)
    assert not_run == ["free_reasoning", "reasoning_narrative"]
    missing = [row for row in _rows(tmp_path / "table2.csv") if row["status"] == "missing"]
    assert {row["row"] for row in missing} == set(not_run)
    assert {row[name] for row in missing for name in ("ours", "low", "high", "seeds")} == {""}
    text, tex = ((tmp_path / f"table2.{kind}").read_text() for kind in ("md", "tex"))
    assert "| free_reasoning | — | 0.480 | — | 0.365 |" in text
    assert "— not run: free_reasoning, reasoning_narrative." in text
    assert r"free\_reasoning & --- & 0.480 & --- & 0.365" in tex


def test_without_any_run_the_printed_table_stands_alone(tmp_path: Path) -> None:
    not_run = write_table("table5", {}, tmp_path, dataset="phantom_a", **FAST)
    assert len(not_run) == 5
    assert {row["status"] for row in _rows(tmp_path / "table5.csv")} == {"missing"}


def test_seeds_are_averaged_and_their_range_is_shown(runs: dict, tmp_path: Path) -> None:
    row = _table("table2", runs, tmp_path)["reasoning_a", "micro_f1"]
    low, high = float(row["seed_min"]), float(row["seed_max"])
    assert low < high
    assert float(row["ours"]) == pytest.approx((low + high) / 2, abs=1e-6)
    assert row["seeds"] == "2"
    assert f"({low:.3f} to {high:.3f}) | 0.293 |" in (tmp_path / "table2.md").read_text()


def test_label_tables_have_models_and_trivial_answers_as_columns(make_arm, tmp_path: Path) -> None:
    runs = {"chexreason": {0: make_arm(0.8)}, "medgemma_sft": {0: make_arm(0.7)}}
    found = _table("table6", runs, tmp_path, "phantom_b", prevalence=dict.fromkeys(CHEXPERT14, 0.3))
    head = (tmp_path / "table6.md").read_text().splitlines()
    header = next(line for line in head if line.startswith("|  | nv_reason"))
    assert header.endswith("| chexreason | paper | nothing | all_labels | best_constant | prior |")
    assert {row for row, _ in found} == {*NIH9, "Macro average", "Fail rate"}
    each = [float(found[label, "chexreason"]["ours"]) for label in NIH9]
    assert sum(each) / 9 == pytest.approx(float(found["Macro average", "chexreason"]["ours"]), abs=1e-5)
    _table("table5", runs, tmp_path, "phantom_b")
    lines = (tmp_path / "table5.md").read_text().splitlines()
    fracture = next(line for line in lines if line.startswith("| Fracture"))
    assert fracture.startswith("| Fracture | — | 0.750 | — | 0.143 |")  # hospital B does not judge it


def test_what_is_computed_is_not_called_printed(make_arm, tmp_path: Path) -> None:
    found = _table("table5", {"chexreason": {0: make_arm(0.8)}}, tmp_path)
    floor = found["Macro average", "all_labels"]
    assert floor["paper"] == ""
    assert float(floor["computed"]) == pytest.approx(all_labels()["Macro average"], abs=1e-3)
    assert found["Macro average", "chexreason"]["computed"] == ""
    text, tex = ((tmp_path / f"table5.{kind}").read_text() for kind in ("md", "tex"))
    assert "| chexreason | paper | nothing | all_labels | computed |" in text
    assert "computed: follows from CheXpert's published test labels" in text
    assert "ours & computed" in tex
    _table("table6", {"chexreason": {0: make_arm(0.8)}}, tmp_path, "phantom_b")
    assert "computed" not in (tmp_path / "table6.md").read_text()


def test_a_model_that_answers_nothing_is_seen_by_its_fail_rate(make_arm, tmp_path: Path) -> None:
    silent = [replace(p, predicted=(), broken="no_solution") for p in make_arm(0.8)]
    runs = {"nv_reason": {0: silent}, "chexreason": {0: make_arm(0.8)}}
    origins = {"nv_reason": Origin("test", "tiny:tiny_qwen2_5_vl"), "chexreason": Origin("test", "google/medgemma")}
    found = _table("table6", runs, tmp_path, "phantom_b", origins=origins)
    rate = found["Fail rate", "nv_reason"]
    assert (rate["ours"], rate["high"], rate["paper"], rate["split"]) == ("1.000000", "1.000000", "", "test")
    assert 0.5 < float(rate["low"]) < 0.9  # ten patients
    assert float(found["Fail rate", "chexreason"]["high"]) == pytest.approx(1 - float(rate["low"]))
    assert found["Macro average", "nv_reason"]["low"] == ""
    text = (tmp_path / "table6.md").read_text()
    assert "Shipped stand-ins, not the models the paper names: tiny_qwen2_5_vl for nv_reason." in text
    assert "A fail rate of 0 or 1 has Wilson's interval over patients" in text


def test_notes_and_lines_name_policy_data_split_and_what_chose_the_checkpoint(make_arm, tmp_path: Path) -> None:
    arm = [replace(p, policy="ones", data_sha256="0123456789abcdef") for p in make_arm(0.7)]
    origins = {"only_label": Origin("val", chosen_on=("phantom_a",)), "reasoning_a": Origin("val")}
    found = _table("table2", {"only_label": {0: arm}, "reasoning_a": {0: arm}}, tmp_path, origins=origins)
    text = (tmp_path / "table2.md").read_text()
    stand = "Label policy ones (phantom_a, 14 labels of chexpert14, data 01234567); split val: 20 studies at phantom_a."
    assert f"{stand} Checkpoints of only_label were chosen on the studies scored here: expect less on others." in text
    row = found["only_label", "macro_f1"]
    assert (row["split"], row["policy"], row["data_sha256"]) == ("val", "ones", "0123456789abcdef")
    elsewhere = {"chexreason": Origin("test", chosen_on=("phantom_a",))}
    _table("table5", {"chexreason": {0: arm}}, tmp_path, origins=elsewhere)
    assert "chosen on" not in (tmp_path / "table5.md").read_text()


def test_mixed_policies_data_and_studies_are_refused_and_nothing_is_written(make_arm, tmp_path: Path) -> None:
    arm = make_arm(0.7)
    ones, other = ([replace(p, **{field: "x"}) for p in arm] for field in ("policy", "data_sha256"))
    for runs, words in (
        (
            {"only_label": {0: arm}, "reasoning_a": {0: ones}},
            r"label policy differs: 'not recorded' in only_label \| 'x' ",
        ),
        ({"only_label": {0: arm}, "reasoning_a": {0: other}}, r"manifest content differs: .* \| 'x' in reasoning_a"),
        ({"only_label": {0: arm, 3: ones}}, r"in only_label \(seed 0\) \| 'x' in only_label \(seed 3\)"),
        (
            {"only_label": {0: arm}, "reasoning_a": {0: arm[1:]}},
            r"answered different studies.*\n.*1 only in the first \['phantom_a:s0'\]",
        ),
        ({"reasoning_z": {0: arm}}, "no row 'reasoning_z'"),
    ):
        with pytest.raises(ValueError, match=words):
            _table("table2", runs, tmp_path)
    assert not list(tmp_path.iterdir())


def _curves(scale: float) -> dict[str, Curve]:
    steps = np.arange(40.0)
    names = ("train/reward", "train/reward/jaccard", "train/completion_length", "train/loss", "train/token_accuracy")
    return {name: Curve(steps, scale * np.sin(steps + i)) for i, name in enumerate(names)}


def _everything(make_arm, out: Path) -> None:
    runs = {"only_label": {0: make_arm(0.6)}, "reasoning_a": {0: make_arm(0.7), 1: make_arm(0.75)}}
    write_table("table2", runs, out, dataset="phantom_a", prevalence=dict.fromkeys(CHEXPERT14, 0.3), **FAST)
    draw_curves("fig1", {"only_label": _curves(1), "reasoning_a": _curves(2)}, out, ["free_reasoning"])
    draw_curves("fig3", {"hard": _curves(1)}, out, [])
    arms = {"sft": {0: make_arm(0.6)}, "grpo": {0: make_arm(0.7)}}
    write_transfer(arms, out, home="phantom_a", away=["phantom_b"], n_permutations=100, **FAST)
    scored = {arm: [(seeds[0], _noise(seeds[0]))] for arm, seeds in arms.items()}
    write_ranking(scored, out, sets=["phantom_a", "phantom_b"], kind="log_odds", **FAST)
    draw_printed(out / "pareto_paper")


def _noise(rows: list[Prediction]) -> pd.DataFrame:
    values = torch.randn(len(rows), 14, generator=torch.Generator().manual_seed(0))
    return label_scores.score_rows(rows, "log_odds", CHEXPERT14.labels, values)


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(make_arm, tmp_path: Path) -> None:
    for name in ("a", "b"):
        _everything(make_arm, tmp_path / name)
    first = _hashes(tmp_path / "a")
    assert first == _hashes(tmp_path / "b")
    expected = {"table2.tex", "fig1.svg", "fig1.png", "fig3.csv", "pareto_phantom_b.png", "pareto_paper.csv"}
    expected |= {f"{name}.{kind}" for name in ("transfer", "ranking") for kind in ("md", "csv", "tex")}
    assert expected <= set(first)
    for path in (tmp_path / "a").glob("*.svg"):
        assert "<dc:date>" not in path.read_text()


@pytest.mark.slow
def test_curves_are_written_raw_and_smoothed(tmp_path: Path) -> None:
    curves = {"train/reward": Curve(np.array([0.0, 5.0]), np.array([4.0, 0.0]))}
    draw_curves("fig2", {"nuanced": curves}, tmp_path, [])
    assert [tuple(row.values()) for row in _rows(tmp_path / "fig2.csv")] == [
        ("fig2", "nuanced", "train/reward", "0", "4", "4"),
        ("fig2", "nuanced", "train/reward", "5", "0", f"{4 * 0.95 / 1.95:.6g}"),
    ]
    with pytest.raises(ValueError, match="fig1: none of nuanced logged train/token_accuracy or train/loss"):
        draw_curves("fig1", {"nuanced": curves}, tmp_path, [])


def _points() -> dict[str, tuple[Interval, Interval]]:
    scores = {"base": (0.2, 0.3), "sft": (0.3, 0.4), "grpo": (0.5, 0.2), "twin": (0.5, 0.2), "low": (0.3, 0.1)}
    return {
        arm: (Interval(home, home - 0.1, home + 0.1), Interval(away, float("nan"), float("nan")))
        for arm, (home, away) in scores.items()
    }


def test_the_front_holds_arms_that_no_other_beats() -> None:
    assert front(_points()) == ["grpo", "twin", "sft"]


@pytest.mark.slow
def test_the_front_is_drawn_with_its_data_beside_it(tmp_path: Path) -> None:
    draw_pareto(_points(), tmp_path / "p", home="a", away="b", title="t")
    rows = _rows(tmp_path / "p.csv")
    assert [row["on_front"] for row in rows] == ["False", "True", "True", "True", "False"]
    assert (rows[0]["home_low"], rows[0]["away_low"]) == ("0.100000", "")


def test_hostile_names_stay_text_in_latex(tmp_path: Path) -> None:
    hostile = "a_b & 50% \\input{x} $y$"
    row = Prediction("s", "p", hostile, "t", ("Edema",), ("Edema",), ("Edema",), policy=hostile)
    write_table("table2", {"only_label": {0: [row]}}, tmp_path, dataset=hostile, **FAST)
    tex = (tmp_path / "table2.tex").read_text()
    assert r"a\_b \& 50\% \textbackslash{}input\{x\} \$y\$" in tex
    assert r"\input" not in tex
