"""A search by Optuna: in the right direction, by the best score of each run; three trials where the plugin is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from chexreason import errors
from chexreason.build.data import build_manifests
from chexreason.cli.train import best_score
from chexreason.confdir import confdir
from chexreason.errors import unknown_choices
from chexreason.files import write_sealed
from tests.support.configs import composed

SEARCH = OmegaConf.to_container(OmegaConf.load(Path(confdir()) / "hparams_search/optuna.yaml"))["hydra"]
SMALL = (
    "data.sets.phantom_a.source.n={sft: 8, rl: 2, val: 2, test: 2}",
    "data.sets.phantom_b.source.n={val: 2, test: 2}",
)
FAST = ("debug=fast", "phase.batch_size=4", "model.max_new_tokens=4", "preflight=false", "callbacks.progress=false")


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["phase=sft"], "minimize"),  # val/loss
        (["phase=grpo"], "maximize"),  # an F1
        (["phase=grpo", "phase.monitor=train/reward"], "maximize"),
        (["phase=grpo", "phase.monitor=val/phantom_a/fail_rate"], "minimize"),
        (["phase.monitor=train/odd", "phase.mode=max"], "maximize"),
    ],
)
def test_what_a_run_chooses_by_says_which_way_is_better(words, way):
    cfg = composed("train", *words)
    cfg.arm = SEARCH["sweeper"]["direction"]
    assert cfg.arm == way


def test_a_sweeper_is_given_the_score_of_the_adapter_that_was_chosen(tmp_path):
    assert best_score(tmp_path) is None
    for which, value in (("best", 0.5), ("last", 0.9)):
        write_sealed(tmp_path / "adapter" / which / "chexreason.json", {"monitor": "val/loss", "value": value})
    assert best_score(tmp_path) == 0.5


def test_a_plugin_that_is_missing_is_named_before_hydra_looks_for_it(monkeypatch):
    monkeypatch.setattr(errors, "distribution", lambda name: (_ for _ in ()).throw(errors.PackageNotFoundError(name)))
    for word, package in {
        "hparams_search=optuna": "hydra-optuna-sweeper",
        "launcher=ray": "hydra-ray-launcher",
    }.items():
        assert unknown_choices([word]) == [f"{word} needs a plugin of Hydra: pip install {package}"]


@pytest.mark.slow
def test_three_trials_end_with_the_settings_of_the_best_score(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install hydra-optuna-sweeper")
    build_manifests(composed("prepare", f"paths.out={tmp_path}", *SMALL, "audit=false"), on_error="stop", workers=1)
    words = ["experiment=demo_sft", "hparams_search=optuna", "hydra.sweeper.n_trials=3", f"paths.out={tmp_path}"]
    words += [*SMALL, *FAST, "name=search", "hydra.sweep.subdir=${phase.lr}", "phase.lr=tag(log,interval(0.5,50))"]
    command = [sys.executable, "-m", "chexreason.cli.train", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = [path.parent for path in (tmp_path / "search").glob("*/DONE")]
    best = {run.name: best_score(run) for run in runs}
    last = {run.name: json.loads((run / "DONE").read_text())["val/loss"] for run in runs}
    found = OmegaConf.load(tmp_path / "search/optimization_results.yaml")
    assert len(best) == 3
    assert best != last  # such learning rates make the second validation worse
    assert found.best_value == best[str(found.best_params["phase.lr"])] == min(best.values())
