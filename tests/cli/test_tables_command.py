"""The command that rebuilds tables, from run directories as the sweep and the demo leave them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from chexreason.cli.tables import origin_of, predictions_of, tables
from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.reports.printed import TITLES
from chexreason.reports.provenance import Origin
from chexreason.statistics import score_files as label_scores
from chexreason.statistics.predictions import write_predictions as write
from chexreason.types import Prediction
from tests.support.configs import composed

pytestmark = pytest.mark.slow


def configured(out: Path, *overrides: str) -> DictConfig:
    return composed("tables", f"paths.out={out}", "n_resamples=50", "n_permutations=50", *overrides)


def answers(shift: int) -> list[Prediction]:
    rows = []
    for dataset, labels in (("phantom_a", CHEXPERT14.labels), ("phantom_b", NIH9.labels)):
        for i in range(12):
            truth = tuple(label for k, label in enumerate(labels) if (i + k) % 3 == 0)
            named = tuple(label for k, label in enumerate(labels) if (i + k) % 3 == 0 or (i * k) % 7 < shift)
            rows.append(Prediction(f"{dataset}:{i}", f"{dataset}:p{i}", dataset, "t", named, truth, labels))
    return rows


def finish(folder: Path, rows: list[Prediction]) -> None:
    write(folder / "predictions.jsonl", rows)
    (folder / "DONE").write_text("{}")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    study = tmp_path / "reproduction_tiny"
    finish(study / "eval" / "medgemma_only_label" / "seed0", answers(2))
    finish(study / "eval" / "medgemma_only_label" / "seed1", answers(1))
    finish(study / "eval" / "medgemma_sft" / "seed0", answers(3))
    finish(study / "eval" / "chexreason" / "seed0", answers(1))
    write(study / "eval" / "medgemma" / "seed0" / "predictions.jsonl", answers(3))  # cut: no DONE
    run = study / "sft_medgemma_only_label" / "seed0"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("step,train/loss,train/token_accuracy\n0,2.0,0.5\n1,1.0,0.6\n")
    return tmp_path


def test_all_of_them_are_written_and_what_was_not_run_is_missing(out: Path) -> None:
    tables(configured(out))
    folder = out / "reproduction_tiny" / "results"
    names = {path.name for path in folder.iterdir()}
    assert {f"{table}.{kind}" for table in TITLES for kind in ("csv", "md", "tex")} <= names
    assert {"fig1.svg", "fig1.png", "fig1.csv", "transfer.md", "pareto_phantom_b.svg", "paper.md"} <= names
    assert not {"fig2.svg", "ranking.md"} & names
    assert "— not run: free_reasoning, reasoning_narrative, reasoning_a." in (folder / "table2.md").read_text()
    assert "— not run: nv_reason, medgemma, qwen2_5_vl." in (folder / "table5.md").read_text()  # medgemma is not DONE
    assert "Compared with medgemma_sft, chexreason" in (folder / "transfer.md").read_text()


def test_only_the_training_hospital_is_called_home(out: Path) -> None:
    """As in ``data=paper``, where CheXpert is the first of two external sets; whichever order they are named in."""
    results = out / "reproduction_tiny" / "results"
    tables(configured(out, "table=transfer", "data.home=mimic"))
    texts = {path.name: path.read_text() for path in results.iterdir() if path.suffix in (".md", ".csv", ".svg")}
    assert set(texts) == {"transfer.md", "transfer.csv", "pareto_phantom_b.csv", "pareto_phantom_b.svg"}
    assert not [name for name, text in texts.items() if "home" in text.lower()]
    assert "medgemma_sft,chexreason,benchmark,phantom_a,change" in texts["transfer.csv"]
    assert "minus the change at benchmark." in texts["transfer.md"]
    tables(configured(out, "table=transfer", "data.test=[phantom_b,phantom_a]"))
    assert "medgemma_sft,chexreason,home,phantom_a,change" in (results / "transfer.csv").read_text()


def test_the_axis_of_grpo_counts_studies_as_the_paper_does(out: Path) -> None:
    run = out / "reproduction_tiny" / "grpo_hard" / "seed0"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("step,train/reward\n0,0.2\n7749,0.3\n")
    svg = out / "reproduction_tiny" / "results" / "fig3.svg"
    for ranks, axis in (({}, "60000"), ({"devices": 2}, "120000"), ({"devices": 2, "num_nodes": 2}, "240000")):
        config = {"phase": {"rollouts": 7750, "batch_size": 8}, "trainer": {"devices": 1} | ranks}
        (run / "config.yaml").write_text(OmegaConf.to_yaml(config))
        tables(configured(out, "table=fig3"))
        assert "global step (one study with its completions)" in svg.read_text()
        assert axis in svg.read_text().replace(",", ""), ranks
    (run / "config.yaml").unlink()  # nobody knows how many studies a rollout had
    tables(configured(out, "table=fig3"))
    assert "global step" not in svg.read_text()


def test_a_demo_without_seed_folders_is_compared_too(tmp_path: Path) -> None:
    for arm, shift in (("base", 3), ("sft", 2)):
        rows = answers(shift)
        finish(tmp_path / "demo" / "eval" / arm, rows)
        folder = tmp_path / "demo" / "scores" / arm
        noise = torch.randn(len(rows), 14, generator=torch.Generator().manual_seed(shift))
        label_scores.write_scores(
            folder / "scores.parquet", label_scores.score_rows(rows, "log_odds", CHEXPERT14.labels, noise)
        )
        (folder / "DONE").write_text("{}")
    for table in ("transfer", "ranking"):
        tables(configured(tmp_path, "name=demo", f"table={table}", "arms=[base,sft]"))
    results = tmp_path / "demo" / "results"
    assert "| base → sft | phantom_b |" in (results / "transfer.md").read_text()
    assert "**Changes in macro-F1 at phantom_b, split**" in (results / "ranking.md").read_text()
    assert "from 50 resamples" in (results / "ranking.md").read_text()
    recorded = {"rows": 24, label_scores.MADE_FOR: "0" * 64}
    (tmp_path / "demo" / "scores" / "sft" / "DONE").write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match=r"scores/sft was made for other answers than .*eval/sft/predictions.jsonl"):
        tables(configured(tmp_path, "name=demo", "table=ranking", "arms=[base,sft]"))
    with pytest.raises(FileNotFoundError, match="no finished evaluation of grpo in"):
        tables(configured(tmp_path, "name=demo", "table=transfer", "arms=[base,grpo]"))


def test_an_ablation_is_compared_in_a_folder_of_its_own(out: Path) -> None:
    study = out / "reproduction_tiny"
    tables(configured(out, "table=transfer"))
    of_the_paper = (study / "results" / "transfer.md").read_bytes()
    for arm, shift in (("beta_0", 3), ("beta_0.15", 1)):
        finish(study / "eval" / arm / "seed0", answers(shift))
    tables(configured(out, "table=transfer", "ablation=beta"))
    of_beta = (study / "results" / "beta" / "transfer.md").read_text()
    assert "| beta_0 → beta_0.15 | phantom_b |" in of_beta
    assert "Not run, and not compared here: beta_0.04, beta_0.5." in of_beta
    assert b"Not run, and not compared here: nv_reason, medgemma, qwen2_5_vl." in of_the_paper
    with pytest.raises(ValueError, match=r"there is no sweep=betta: did you mean beta\?"):
        tables(configured(out, "table=transfer", "ablation=betta"))
    tables(configured(out, "table=transfer", "ablation=seeds"))  # one that names its cells in rows
    assert "medgemma_sft → chexreason" in (study / "results" / "seeds" / "transfer.md").read_text()
    assert (study / "results" / "transfer.md").read_bytes() == of_the_paper


def test_wrong_names_and_mixed_runs_are_refused(out: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown table=tabel2: did you mean table2\?"):
        tables(configured(out, "table=tabel2"))
    with pytest.raises(ValueError, match="unknown table=9; choose one of: all, table1"):
        tables(configured(out, "table=9"))
    with pytest.raises(
        ValueError, match="table5 is measured on phantom_a or chexpert, and data=nih_kermany has only nih"
    ):
        tables(configured(out, "table=table5", "data=nih_kermany"))
    other = out / "reproduction_tiny" / "eval" / "medgemma_reasoning_a" / "seed0"
    finish(other, [replace(p, policy="ones") for p in answers(1)])
    with pytest.raises(ValueError, match=r"label policy differs: 'not recorded' in only_label .*'ones' in reasoning_a"):
        tables(configured(out, "table=table2"))
    with pytest.raises(ValueError, match=r"the others are written; not 1 of 12:\ntable2: .*\n.*label policy differs"):
        tables(configured(out))
    results = out / "reproduction_tiny" / "results"
    assert (results / "paper.md").is_file()
    assert not (results / "table2.md").exists()


def test_a_table_says_how_its_runs_came_about(out: Path) -> None:
    eval_, cfg = out / "reproduction_tiny" / "eval", configured(out)
    common = {"split": "val", "model": {"source": "tiny:tiny_gemma3"}, "data": {"val": ["phantom_a", "phantom_b"]}}
    for cell, which in (("medgemma_only_label", "best"), ("medgemma_sft", "last")):
        config = OmegaConf.to_yaml(common | {"adapters": [f"x/adapter/{which}"]})
        (eval_ / cell / "seed0" / "config.yaml").write_text(config)
    assert origin_of(cfg, "medgemma_only_label") == Origin("val", "tiny:tiny_gemma3", ("phantom_a", "phantom_b"))
    assert origin_of(cfg, "medgemma_sft").chosen_on == ()
    best = out / "held" / "adapter" / "best"
    best.mkdir(parents=True)
    kept = eval_ / "medgemma_sft" / "seed0" / "config.yaml"
    kept.write_text(OmegaConf.to_yaml(common | {"adapters": [str(best)]}))
    for card, chosen_on in (
        ('{"chosen_on": []}', ()),
        ("{torn", ("phantom_a", "phantom_b")),
        ("[]", ("phantom_a", "phantom_b")),
    ):
        (best / "chexreason.json").write_text(card)
        assert origin_of(cfg, "medgemma_sft").chosen_on == chosen_on
    assert origin_of(cfg, "nowhere") == Origin()
    assert list(predictions_of(cfg, "medgemma_only_label")) == [0, 1]  # by seed
    tables(configured(out, "table=table2"))
    text = (out / "reproduction_tiny" / "results" / "table2.md").read_text()
    assert "split val: 12 studies at phantom_a. Checkpoints of only_label were chosen" in text
