"""A search by Optuna: in the right direction, by the best score of each run. Three trials are in test_launchers."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from chexreason import errors
from chexreason.cli.train import best_score
from chexreason.confdir import confdir
from chexreason.errors import unknown_choices
from chexreason.files import write_sealed
from tests.support.configs import composed

SEARCH = OmegaConf.to_container(OmegaConf.load(Path(confdir()) / "hparams_search/optuna.yaml"))["hydra"]


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
