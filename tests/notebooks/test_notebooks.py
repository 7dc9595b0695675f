"""Notebooks carry no outputs, define nothing, and compute what they say; test_notebooks_run.py executes them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from chexreason.audit.audit_page import write_audit
from chexreason.data.manifest import Manifest, conform
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.uncertainty import IGNORE

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
mpl.use("Agg")
AUDIT = next(path for path in NOTEBOOKS if path.stem.endswith("data_audit"))

CURVES = next(path for path in NOTEBOOKS if path.stem.endswith("training_curves"))


def code(path: Path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_stripped_and_define_nothing(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert cell.get("outputs", []) == []
    for source in code(path):
        assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.fixture
def audit(tmp_path) -> Path:
    """The folder of an audit of two small sets that label the same images; the second knows no ages."""
    frame = pd.DataFrame(
        {
            "study_id": [f"x:{i}" for i in range(8)],
            "patient_id": [f"x:p{i}" for i in range(8)],
            "dataset": "x",
            "split": ["sft", "test"] * 4,
            "path": [f"{i}.png" for i in range(8)],
            "view": "PA",
            "age": range(20, 100, 10),
            "sex": "F",
            **dict.fromkeys(CHEXPERT14.labels, 0.0),
            "Edema": [1, 0, 1, 1, 0, 0, -1, 1],
        }
    )
    sets = {"x": Manifest(conform(frame), {}, tmp_path)}
    sets["readers"] = Manifest(conform(frame.assign(dataset="readers", split="readers", age=None)), {}, tmp_path)
    write_audit(sets, dict.fromkeys(sets, IGNORE), tmp_path, agreement=[("x", "readers")], n_images=0)
    return tmp_path


def test_the_audit_notebook_reads_what_the_audit_writes(audit, monkeypatch):
    monkeypatch.setenv("AUDIT", str(audit))
    monkeypatch.setattr(plt, "show", lambda: None)
    names: dict[str, object] = {}
    for source in code(AUDIT):
        exec(compile(source, AUDIT.name, "exec"), names)
    assert names["prevalence"].loc["Edema", "x sft"] == pytest.approx(2 / 3)  # one of four is uncertain
    assert list(names["kappas"]) == [("x and readers", label) for label in CHEXPERT14.labels]
    plt.close("all")


@pytest.fixture
def study(tmp_path) -> Path:
    """A study of one GRPO run: validations of two hospitals, rewards of eight patients."""
    run = tmp_path / "grpo" / "seed0"
    run.mkdir(parents=True)
    steps = {"step": range(12), "train/reward": [0.1 * i for i in range(12)], "train/reward/match": 0.5}
    frame = pd.DataFrame({**steps, "train/completion_length": 100.0})
    scores = {"step": [3, 7, 11], "val/home/macro_f1": [0.3, 0.5, 0.4], "val/away/macro_f1": [0.3, 0.2, 0.3]}
    pd.concat([frame, pd.DataFrame(scores)]).to_csv(run / "metrics.csv", index=False)
    rewards = pd.DataFrame({"step": range(1, 13), "study_id": [f"s{i % 8}" for i in range(12)]})
    rewards = rewards.assign(patient_id=rewards["study_id"], reward=rewards["step"] / 10)
    rewards.to_csv(run / "rewards-rank0.csv", index=False)
    return tmp_path


@pytest.mark.slow
def test_the_curves_notebook_reads_what_a_run_writes(study, monkeypatch):
    monkeypatch.setenv("STUDY", str(study))
    monkeypatch.setattr(plt, "show", lambda: None)
    names: dict[str, object] = {}
    for source in code(CURVES):
        exec(compile(source, CURVES.name, "exec"), names)
    assert names["chosen"] == {"grpo/seed0": {"worst": 3, "mean": 7, "constrained": 11}}
    assert names["rows"]["grpo/seed0"]["difference"].value == pytest.approx(1.0)  # rollouts 1 and 2 against 11 and 12
    plt.close("all")
