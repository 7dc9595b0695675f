"""Multirun through Hydra's launchers: every job trains in its own run directory, in a process that is not ours."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from chexreason.build.data import build_manifests
from chexreason.cli.train import best_score
from tests.support.configs import composed
from tests.support.deep import all_deep_but

pytestmark = pytest.mark.slow
SMALL = (
    "data.sets.phantom_a.source.n={sft: 8, rl: 2, val: 2, test: 2}",
    "data.sets.phantom_b.source.n={val: 2, test: 2}",
)
FAST = ("debug=fast", "phase.batch_size=4", "model.max_new_tokens=4", "preflight=false", "callbacks.progress=false")
MULTI = ("name=many", "seed=0,1", "hydra.sweep.subdir=seed${seed}")  # the overrides above are too long for a name
PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    cfg = composed("prepare", f"paths.out={folder}", *SMALL, "audit=false")
    build_manifests(cfg, on_error="stop", workers=1)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", all_deep_but("joblib", PLUGINS))
def test_every_job_of_a_multirun_trains_in_its_own_folder(launcher: str, out: Path) -> None:
    plugin = f"hydra-{PLUGINS[launcher]}-launcher"
    if importlib.util.find_spec(f"hydra_plugins.hydra_{PLUGINS[launcher]}_launcher") is None:
        pytest.skip(f"{plugin} is not installed")
    study = out / launcher
    command = [sys.executable, "-m", "chexreason.cli.train", "-m", "experiment=demo_sft", f"launcher={launcher}"]
    command += [f"paths.out={study}", f"paths.data={out}/data", *FAST, *SMALL, *MULTI]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for seed in (0, 1):
        folder = study / "many" / f"seed{seed}"
        assert json.loads((folder / "DONE").read_text())["val/loss"] > 0
        assert (folder / "adapter" / "best" / "adapter_model.safetensors").is_file()
        assert f"\nseed: {seed}\n" in (folder / "config.yaml").read_text()
    logs = list((study / "many" / "submitit").glob("*/*_log.out"))
    assert len(logs) == (2 if launcher == "submitit_local" else 0)


def test_three_trials_of_a_search_end_with_the_settings_of_the_best_score(out: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install hydra-optuna-sweeper")
    words = ["experiment=demo_sft", "hparams_search=optuna", "hydra.sweeper.n_trials=3", f"paths.data={out}/data"]
    words += [f"paths.out={out}", "name=search", "hydra.sweep.subdir=${phase.lr}", "phase.lr=interval(0.5,50.)"]
    command = [sys.executable, "-m", "chexreason.cli.train", *words, *FAST, *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = [path.parent for path in (out / "search").glob("*/DONE")]
    best = {run.name: best_score(run) for run in runs}
    found = OmegaConf.load(out / "search/optimization_results.yaml")
    assert len(best) == 3
    assert found.best_value == best[str(found.best_params["phase.lr"])] == min(best.values())
    # such learning rates make the second validation worse
    assert best != {run.name: json.loads((run / "DONE").read_text())["val/loss"] for run in runs}
