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
from tests.support.manifests import manifest_rows

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
mpl.use("Agg")


def code(path: Path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_stripped_and_define_nothing(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert cell.get("outputs", []) == []
    for source in code(path):
        assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]


@pytest.fixture
def names_of(monkeypatch, tmp_path):
    """``names_of(ending, variable)``: what the code of one notebook leaves, run on the folder of the test."""

    def run(ending: str, variable: str) -> dict[str, object]:
        (path,) = (path for path in NOTEBOOKS if path.stem.endswith(ending))
        monkeypatch.setenv(variable, str(tmp_path))
        monkeypatch.setattr(plt, "show", lambda: None)
        names: dict[str, object] = {}
        for source in code(path):
            exec(compile(source, path.name, "exec"), names)
        plt.close("all")
        return names

    return run


def test_the_audit_notebook_reads_what_the_audit_writes(names_of, tmp_path):
    """An audit of two small sets that label the same images; the second knows no ages."""
    edema = [1, 0, 1, 1, 0, 0, -1, 1]
    frame = manifest_rows("x", 8, split=["sft", "test"] * 4, age=range(20, 100, 10), Edema=edema)
    sets = {"x": Manifest(conform(frame), {}, tmp_path)}
    sets["readers"] = Manifest(conform(frame.assign(dataset="readers", split="readers", age=None)), {}, tmp_path)
    write_audit(sets, dict.fromkeys(sets, IGNORE), tmp_path, agreement=[("x", "readers")], n_images=0)
    names = names_of("data_audit", "AUDIT")
    assert names["prevalence"].loc["Edema", "x sft"] == pytest.approx(2 / 3)  # one of four is uncertain
    assert list(names["kappas"]) == [("x and readers", label) for label in CHEXPERT14.labels]


@pytest.mark.slow
def test_the_curves_notebook_reads_what_a_run_writes(names_of, tmp_path):
    """A study of one GRPO run: validations of two hospitals, rewards of eight patients."""
    run = tmp_path / "grpo" / "seed0"
    run.mkdir(parents=True)
    steps = {"step": range(12), "train/reward": [0.1 * i for i in range(12)], "train/reward/match": 0.5}
    frame = pd.DataFrame({**steps, "train/completion_length": 100.0})
    scores = {"step": [3, 7, 11], "val/home/macro_f1": [0.6, 0.3, 0.3], "val/away/macro_f1": [0.3, 0.2, 0.3]}
    both = {"val/home/f1/Edema": [0.3, 0.5, 0.4], "val/away/f1/Edema": scores["val/away/macro_f1"]}
    scores |= {"val/home/f1/Fracture": [0.9, 0.1, 0.2], **both}  # of which away judges nothing
    pd.concat([frame, pd.DataFrame(scores)]).to_csv(run / "metrics.csv", index=False)
    rewards = pd.DataFrame({"step": range(1, 13), "study_id": [f"s{i % 8}" for i in range(12)]})
    rewards = rewards.assign(patient_id=rewards["study_id"], reward=rewards["step"] / 10)
    rewards.to_csv(run / "rewards-rank0.csv", index=False)
    names = names_of("training_curves", "STUDY")
    assert names["chosen"] == {"grpo/seed0": {"worst": 3, "mean": 7, "constrained": 11}}
    assert names["rows"]["grpo/seed0"]["difference"].value == pytest.approx(1.0)  # rollouts 1 and 2 against 11 and 12
