"""Every notebook executed in a kernel, on a small study that the commands have really run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbclient
import nbformat
import pytest
from omegaconf import DictConfig

from chexreason.cli.evaluate import evaluate
from chexreason.cli.prepare import prepare
from chexreason.cli.report import report_study
from chexreason.cli.tables import sweep_rows, tables
from chexreason.cli.train import train
from tests.support.configs import composed

pytestmark = pytest.mark.slow
NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
SMALL = (
    "data.sets.phantom_a.source.n={sft: 12, rl: 8, val: 4, test: 8}",
    "data.sets.phantom_b.source.n={val: 4, test: 8}",
)
SHORT = ("preflight=false", "model.max_new_tokens=8", "callbacks.progress=false")  # nothing has to be learned here
SFT = ("experiment=demo_sft", "phase.max_epochs=1", "phase.batch_size=4", *SHORT)
GRPO = ("experiment=demo_grpo", "phase.rollouts=5", "phase.val_check_interval=2", "phase.batch_size=4", *SHORT)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The folder of a study: audit, an SFT and a GRPO run, three evaluations, a report, tables and figures.

    Its GRPO arm is named as the cell of Figure 2, its SFT arm is evaluated under the name of a row of Table 2 as well.
    """
    out = tmp_path_factory.mktemp("out")

    def configured(config: str, *overrides: str) -> DictConfig:
        return composed(config, f"paths.out={out}", f"paths.data={out}", "name=demo", *overrides)

    (cell,) = sweep_rows("fig2").values()
    row = sweep_rows("table2")["free_reasoning"]
    prepare(configured("prepare", *SMALL))
    train(configured("train", *SFT, *SMALL))
    train(configured("train", *GRPO, f"arm={cell}", *SMALL))
    sft, grpo = ([str(out / "demo" / arm / "seed0" / "adapter" / "best")] for arm in ("sft", cell))
    for arm, adapters in {"base": [], "sft": sft, cell: grpo, row: sft}.items():
        evaluate(configured("evaluate", f"arm={arm}", f"adapters={adapters}", "max_new_tokens=8", *SMALL))
    report_study(configured("report", f"arms=[base,sft,{cell}]", "n_resamples=50", "n_cases=2", *SMALL))
    few = ("n_resamples=50", "n_permutations=50")
    tables(configured("tables", f"arms=[base,sft,{cell}]", *few, *SMALL))
    return out / "demo"


# What the notebook must have shown, as text of its outputs, and how many pictures.
SHOWN = {
    "01_data_audit": (("phantom_a sft", "phantom_b test", "Pleural Effusion"), 3),
    "02_read_a_study": (("phantom_b", "all_labels", "base__sft", "| truth:"), 0),
    "03_training_curves": (("train/reward", "constrained", "sft/seed0", "grpo_nuanced/seed0"), 2),
    "04_paper_figures": (("free_reasoning", "| base → sft | phantom_b |"), 4),  # Figure 2, its data, two Pareto plots
}


def test_every_notebook_runs_on_a_study(study, monkeypatch):
    assert [path.stem for path in NOTEBOOKS] == list(SHOWN)
    for name, value in {"AUDIT": study, "STUDY": study, "RESULTS": study / "results"}.items():
        monkeypatch.setenv(name, str(value))
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(path.parent))
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        text = re.sub(r"\s+", " ", json.dumps(outputs, ensure_ascii=False))
        words, n_pictures = SHOWN[path.stem]
        assert [word for word in words if word not in text] == [], path.stem
        pictures = [o for o in outputs if {"image/png", "image/svg+xml"} & set(o.get("data", ()))]
        assert len(pictures) == n_pictures, path.stem
