"""The command itself on two ranks, in a sweep: a directory a job, one owner each, every rank the job of the first."""

from __future__ import annotations

import importlib.util
import json
import sys

import pandas as pd
import pytest

from chexreason import runs
from chexreason.build.data import build_manifests
from chexreason.cli.train import main
from chexreason.reports.history import read_rewards
from tests.support.configs import composed

pytestmark = pytest.mark.slow
EXPERIMENT = """# @package _global_
# Two ranks, one rollout.
#   written by a test
defaults:
  - override /phase: grpo
  - override /prompt: only_label
  - override /reward: nuanced
  - override /trainer: ddp
phase: {limit: 4, rollouts: 1, batch_size: 2, val_check_interval: 1, module: {group_size: 2}}
data:
  sets:
    phantom_a: {source: {n: {sft: 1, rl: 5, val: 3, test: 1}}}
    phantom_b: {source: {n: {val: 2, test: 1}}}
model: {max_new_tokens: 16}
trainer: {accelerator: cpu}
callbacks: {progress: false}
preflight: false
"""


def test_a_sweep_on_two_ranks_leaves_one_finished_run_a_job(on_ranks, tmp_path):
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    (own / "two_ranks.yaml").write_text(EXPERIMENT)
    overrides = ["experiment=two_ranks", f"hydra.searchpath=[{own.parent}]", f"paths.out={tmp_path}"]
    build_manifests(composed("train", *overrides), on_error="stop", workers=1)

    def command(rank: int) -> None:
        # the first rank is a copy of this process; Lightning starts the other one as `python -m` of this module
        sys.modules["__main__"].__spec__ = importlib.util.find_spec("chexreason.cli.train")
        sys.argv = ["train", f"--config-dir={own.parent}", "-m", "seed=0,1", overrides[0], overrides[-1]]
        main()

    on_ranks(1, command)
    folders = sorted(path.parent for path in tmp_path.rglob(runs.DONE))
    assert [folder.name for folder in folders] == ["seed0", "seed1"]
    adapters = set()
    for folder in folders:
        assert json.loads((folder / runs.DONE).read_text())["val/phantom_a/macro_f1"] >= 0
        assert sorted(path.name for path in folder.glob("rewards-rank*.csv")) == [
            "rewards-rank0.csv",
            "rewards-rank1.csv",
        ]
        rewards = read_rewards(folder)
        assert rewards["patient_id"].nunique() > 1
        assert len(rewards) == 4  # two studies a rank
        assert pd.read_csv(folder / "metrics.csv")["train/reward"].count() == 1
        assert len(list((folder / "metrics").iterdir())) == 1
        adapters.add((folder / "adapter" / "last" / "adapter_model.safetensors").read_bytes())
    assert len(adapters) == 2
