"""The ranking report from predictions and scores of random numbers: no model involved."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.reports.provenance import Origin
from chexreason.reports.ranking_page import see, step_table, write_ranking
from chexreason.statistics.predictions import datasets
from chexreason.statistics.rate_matched import CHANGE_PARTS
from chexreason.statistics.score_files import score_rows
from chexreason.types import Prediction

SETS = ("phantom_a", "phantom_b")


def scored(predictions: list[Prediction], seed: int = 0) -> tuple[list[Prediction], pd.DataFrame]:
    """Scores that lean towards the truth."""
    truth = torch.tensor([[label in p.truth for label in CHEXPERT14] for p in predictions])
    noise = torch.randn(len(predictions), 14, generator=torch.Generator().manual_seed(seed))
    return predictions, score_rows(predictions, "log_odds", CHEXPERT14.labels, noise + 0.8 * truth)


def write(arms: dict, out: Path, **options: object) -> list[dict[str, str]]:
    settings = {"sets": SETS, "label_set": CHEXPERT14, "kind": "log_odds", "n_resamples": 40} | options
    write_ranking(arms, out, **settings)
    return list(csv.DictReader((out / "ranking.csv").read_text().splitlines()))


@pytest.fixture
def arms(make_arm) -> dict:
    return {"sft": [scored(make_arm(0.6, 40))], "grpo": [scored(make_arm(0.8, 40), 1)]}


def test_the_page_shows_every_arm_and_every_step_and_how_it_was_made(arms: dict, tmp_path: Path) -> None:
    write(arms, tmp_path, origins={"sft": Origin("test", "tiny:tiny_gemma3"), "grpo": Origin("test")})
    page = (tmp_path / "ranking.md").read_text()
    found = see(arms, "phantom_a", CHEXPERT14, kind="log_odds", n_resamples=40)
    assert f" | {found.arms['grpo'].ranking.value['macro_auroc']:.3f} [" in page
    assert page.count("| sft → grpo | +0.") == 2
    assert "| step | change | operating point | ranking | decoding | change in AUROC |" in page
    assert "from 40 resamples" in page
    assert "split test: 40 studies at phantom_a, 40 studies at phantom_b." in page
    assert "Shipped stand-ins, not the models the paper names: tiny_gemma3 for sft." in page
    ece = see(arms, "phantom_b", CHEXPERT14, kind="log_odds", n_resamples=40).arms["sft"].ranking.value["macro_ece"]
    assert f"| {ece:.3f} |" in page  # without an interval


def test_every_label_is_in_the_csv_with_its_interval(arms: dict, tmp_path: Path) -> None:
    lines = write(arms, tmp_path)
    found = {(row["arm"], row["dataset"], row["label"], row["measure"]): row for row in lines}
    measures = {"auroc", "average_precision", "brier", "ece"}
    assert {label for _, name, label, m in found if name == "phantom_b" and m in measures} == {*NIH9, "macro"}
    assert {m for _, _, label, m in found if label == "macro"} == {*measures, "f1_own"}
    one = found["sft", "phantom_b", NIH9.labels[0], "auroc"]
    assert float(one["low"]) <= float(one["value"]) <= float(one["high"])
    assert (one["scores"], one["status"], one["policy"]) == ("log_odds", "measured", "not recorded")
    assert {row["low"] for row in lines if row["measure"] == "ece"} == {""}
    tex = (tmp_path / "ranking.tex").read_text()
    assert tex.count(r"\toprule") == 2
    assert r"\caption{Sight and thresholds at phantom\_a. Label policy not recorded" in tex


def test_other_policies_data_and_studies_are_refused_by_name(arms: dict, tmp_path: Path) -> None:
    rows = arms["grpo"][0][0]
    for other, words in (
        ([replace(p, policy="other") for p in rows], r"label policy differs: 'not recorded' in sft \| 'other' in grpo"),
        ([replace(p, data_sha256="other") for p in rows], "manifest content differs: 'not recorded' in sft"),
        (rows[1:], r"phantom_a: .*\n.*sft and grpo: 1 only in the first \['phantom_a:s0'\]"),
    ):
        with pytest.raises(ValueError, match=words):
            write(arms | {"grpo": [scored(other)]}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_arm_without_a_set_is_missing_there_and_nowhere_else(arms: dict, tmp_path: Path) -> None:
    arms["sft"] = [scored(datasets(arms["sft"][0][0])["phantom_a"])]
    lines = write(arms, tmp_path)
    page = (tmp_path / "ranking.md").read_text()
    assert "| sft | — | — | — | — | — |" in page
    assert "| sft → grpo | — | — | — | — | — |" in page
    assert "— missing: sft, no answers at phantom_b." in page
    lost = [row for row in lines if row["status"] == "missing"]
    assert [(row["arm"], row["dataset"], row["value"]) for row in lost] == [("sft", "phantom_b", "")]
    assert "--- missing: sft, no answers" not in (tmp_path / "ranking.tex").read_text().split(r"\end{table}")[0]


def test_the_parts_of_a_step_add_up_over_other_numbers_of_seeds(make_arm) -> None:
    arms = {"sft": [scored(make_arm(0.6, 40))], "grpo": [scored(make_arm(q, 40), k) for k, q in ((1, 0.8), (2, 0.7))]}
    view = see(arms, "phantom_a", CHEXPERT14, kind="log_odds", n_resamples=40)
    split, own = view.splits["sft", "grpo"], [view.arms[arm].own.value["macro_f1"] for arm in arms]
    parts = [split.value[part] for part in CHANGE_PARTS]
    assert parts[0] == pytest.approx(sum(parts[1:]), abs=1e-12)
    assert parts[0] == pytest.approx(own[1] - own[0], abs=1e-12)
    assert [str(cell)[0] for cell in step_table(view).rows[0][1:]] == ["+" if p >= 0 else "-" for p in parts] + ["+"]
