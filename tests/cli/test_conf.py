"""The configuration: every file composes, names what exists, and reaches the constructors it is meant for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from chexreason.build.model import chosen_on
from chexreason.confdir import choices, confdir
from chexreason.renames import FREE, below, flat
from tests.support.configs import composed, misfits

ROOT = Path(confdir())


def options(group: str) -> list[str]:
    return [name for name in choices(group) if "/" not in name]


GROUPS = ("model", "adapter", "optim", "prompt", "reward", "objective", "phase", "rollout", "logger", "trainer")
CHOICES = [("train", f"{g}={o}") for g in GROUPS for o in options(g)]
CHOICES += [("train", f"experiment={o}") for o in options("experiment")]
CHOICES += [("train", f"debug={o}") for o in options("debug")]
CHOICES += [("evaluate", f"model={o}") for o in options("model")]
CHOICES += [("prepare", f"data={o}") for o in options("data")] + [("report", "name=x"), ("preflight", "trainer=gpu")]


@pytest.mark.slow
@pytest.mark.parametrize(("config", "choice"), CHOICES)
def test_every_choice_composes_and_fits_its_constructor(config, choice, monkeypatch):
    for variable in ("NIH_ROOT", "OOD_ROOT", "MIMIC_ROOT", "CHEXPERT_ROOT", "PADCHEST_ROOT", "VINDR_ROOT"):
        monkeypatch.setenv(variable, variable.lower())
    assert misfits(composed(config, choice)) == []


@pytest.mark.slow
def test_what_may_change_when_a_run_goes_on_leaves_a_multirun_its_directory():
    """Else the same job with more workers would begin anew beside its checkpoint."""
    with initialize_config_dir(confdir(), version_base="1.3"):
        cfg = compose("train", ["logger=wandb"], return_hydra_config=True)
    left_out = set(cfg.hydra.job.config.override_dirname.exclude_keys)
    with open_dict(cfg):
        cfg.pop("hydra")
    assert {"logger", *(key for key in flat(OmegaConf.to_container(cfg)) if below(key, FREE))} <= left_out


@pytest.mark.slow
def test_an_experiment_beats_the_defaults_and_the_command_line_beats_it():
    assert composed("train", "experiment=demo_sft").name == "demo"
    assert composed("train", "experiment=demo_sft", "name=mine").name == "mine"
    grpo = composed("train", "experiment=demo_grpo", "name=mine", "seed=3")  # starts from the SFT arm of its study
    assert (grpo.phase.name, grpo.adapters) == ("grpo", ["out/mine/sft/seed3/adapter/best"])


def test_the_papers_numbers_are_the_defaults():
    sft, grpo = composed("train", "phase=sft"), composed("train", "phase=grpo", "objective=paper")
    assert (sft.phase.batch_size * sft.phase.accumulate, sft.phase.lr, sft.phase.max_epochs) == (8, 5e-5, 6)
    assert (sft.adapter.r, sft.adapter.alpha, sft.adapter.dropout, sft.phase.gradient_clip_val) == (16, 32, 0.1, 5.0)
    assert (grpo.phase.module.group_size, grpo.phase.module.sampling.temperature, grpo.phase.batch_size) == (4, 0.8, 8)
    assert (grpo.phase.rollouts * grpo.phase.batch_size, grpo.phase.val_check_interval) == (62_000, 100)
    assert (sft.phase.holdout, sft.phase.monitor, sft.phase.patience) == (0.1, "val/loss", 2)
    assert (grpo.objective.clip_low, grpo.objective.clip_high, grpo.objective.kl_beta) == (0.15, 0.22, 0.15)
    assert grpo.adapter.dropout == 0.0


@pytest.mark.parametrize("row", [n for n in choices("experiment") if n.startswith(("table2/", "table3/", "demo_sft"))])
@pytest.mark.parametrize("scale", ["tiny", "paper"])
def test_no_sft_arm_chooses_on_what_the_tables_score(row, scale, monkeypatch):
    for variable in ("MIMIC_ROOT", "CHEXPERT_ROOT", "NIH_ROOT"):
        monkeypatch.setenv(variable, "x")
    assert chosen_on(composed("train", f"experiment={row}", f"scale={scale}")) == []


def hops_to_lr(file: str, scale: str) -> int | None:
    """How many defaults lists lie between a file and the nearest one that sets phase.lr; None where no list leads."""
    node = OmegaConf.to_container(OmegaConf.load(ROOT / f"{file}.yaml"))
    if "lr" in (node if file.startswith("phase/") else node.get("phase", {})):
        return 0
    found = []
    for entry in node.get("defaults", []):
        ((group, choice),) = entry.items() if isinstance(entry, dict) else ((entry, None),)
        group, choice = group.removeprefix("override ").removeprefix("/"), str(choice).replace("${scale}", scale)
        target = group if choice == "None" else f"{group}/{choice}"
        if (ROOT / f"{target}.yaml").is_file() and (hops := hops_to_lr(target, scale)) is not None:
            found.append((group != "size", hops + 1))  # a size comes after its phase
    return min(found)[1] if found else None


@pytest.mark.parametrize("scale", ["tiny", "paper"])
@pytest.mark.parametrize("row", [name for name in choices("experiment") if name.startswith(("table2/", "table3/"))])
def test_the_learning_rate_of_a_row_is_two_hops_from_its_experiment(row, scale):
    assert hops_to_lr(f"experiment/{row}", scale) == 2


def test_an_experiment_names_the_arm_of_its_cell():
    """The experiment describes a row; its cell in a sweep names it and repeats nothing."""
    cells = OmegaConf.to_container(OmegaConf.load(ROOT / "sweep" / "cells" / "paper.yaml"))
    arms = {}
    for name, cell in cells.items():
        for word in cell.get("overrides", []):
            if word.startswith("experiment=table"):
                arms[name] = OmegaConf.load(ROOT / "experiment" / f"{word.removeprefix('experiment=')}.yaml").arm
    assert len(arms) == 24
    assert all(name == arm for name, arm in arms.items())
    assert all(len(cell["overrides"]) == 1 for cell in cells.values())
