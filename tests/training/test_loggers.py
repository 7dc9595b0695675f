"""The loggers of ``conf/logger``, each as a stand-in that keeps what it is sent: one gate stands before all of them."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig

from chexreason.build.data import load_studies
from chexreason.build.training import WANDB, build_loggers, log_scores
from chexreason.data.manifest import Manifest, write_manifest
from chexreason.labels.catalog import CHEXPERT14
from chexreason.types import Study
from tests.support.configs import composed
from tests.support.manifests import manifest_rows
from tests.support.recorder import MADE, Recorder

CHOICES = {"csv": [], "many_loggers": ["wandb", "tensorboard", "mlflow"], "[csv,mlflow]": ["mlflow"]}
CHOICES |= {"[wandb,csv]": ["wandb"]} | {name: [name] for name in ("wandb", "tensorboard", "mlflow")}


@pytest.fixture
def words(tmp_path, monkeypatch) -> list[str]:
    """A private set of 12 patients, three of whom have an edema, and a public one of four; recorders for loggers."""
    for name, n, public in (("phantom_a", 12, False), ("phantom_b", 4, True)):
        edema, splits = [float(i < 3) for i in range(n)], ["val"] * n + ["test"] * n
        frame = manifest_rows(name, 2 * n, split=splits, Edema=edema * 2, Fracture=1.0)
        facts = {"source": "table", "public": public}
        write_manifest(Manifest(frame, facts, tmp_path / name), tmp_path / "data/phantom" / name / "manifest.parquet")
    for place in ("lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.MLFlowLogger", WANDB):
        monkeypatch.setattr(place, Recorder)
    MADE.clear()
    return [f"paths.out={tmp_path}"]


def validated(cfg: DictConfig) -> dict[str, list[Study]]:
    return {name: load_studies(cfg, name, ("val",), CHEXPERT14) for name in cfg.data.val}


@pytest.mark.parametrize(("choice", "names"), CHOICES.items(), ids=list(CHOICES))
def test_figures_of_enough_patients_reach_each_logger_that_is_chosen(choice, names, words, tmp_path):
    cfg = composed("train", f"logger={choice}", *words)
    gates = build_loggers(cfg, tmp_path, CHEXPERT14, "train", "val", validated(cfg))
    assert [name for name in cfg.logger if name in CHOICES["many_loggers"]] == names
    figures = {f"val/{place}/f1/{label}": 0.5 for place in cfg.data.val for label in ("Edema", "Fracture")}
    for gate in gates:
        gate.log_metrics({**figures, "val/phantom_b/macro_f1": 0.5, "train/loss": 1.0}, 3)
        gate.log_hyperparams({"data.folder": f"{tmp_path}/Jane"})
    figures.pop("val/phantom_a/f1/Edema")  # three patients
    figures.pop("val/phantom_a/f1/Fracture")  # the mean would tell the other
    for made in MADE:
        assert made.sent[0] == {**figures, "val/phantom_b/macro_f1": 0.5, "train/loss": 1.0}
        assert "Jane" not in str(made.sent[1])
    assert len(MADE) == len(names)
    if "wandb" in names:
        board = next(made for made in MADE if made.config)
        assert (board.settings["job_type"], board.settings["name"]) == ("train", "run/sft/seed0")
        assert board.settings["tags"] == ["phantom", "free_reasoning"]
        assert not {"completions", "media", "allow_export"} & board.settings.keys()


def test_the_figures_of_an_evaluation_pass_the_same_gate(words):
    own = "+logger.mine._target_=tests.support.recorder.Recorder"
    scores = {"phantom_a": {"macro_f1": 0.5, "f1/Edema": 0.1}, "phantom_b": {"macro_f1": 0.6, "no": float("nan")}}
    log_scores(composed("evaluate", "logger=wandb", own, "arm=sft", *words), scores, CHEXPERT14)
    board, mine = MADE
    assert board.sent == mine.sent == [{"test/phantom_a/macro_f1": 0.5, "test/phantom_b/macro_f1": 0.6}]
    assert (board.settings["job_type"], board.settings["group"]) == ("evaluate", "run/sft")
    few = composed("evaluate", "logger=mlflow", "logger.min_patients=13", *words)
    log_scores(few, scores, CHEXPERT14)
    assert MADE[2].sent == [{"test/phantom_b/macro_f1": 0.6}]
    assert MADE[2].settings["tags"] == {"job_type": "evaluate"}


def test_a_logger_that_cannot_be_had_says_what_to_install_or_to_name(words, monkeypatch, tmp_path):
    def absent(**settings):
        raise ModuleNotFoundError("It is not there.\nHINT: Try running `pip install -U 'mlflow>=1.0.0'`")

    monkeypatch.setattr("lightning.pytorch.loggers.MLFlowLogger", absent)
    cases = {"logger=mlflow": r"^logger.mlflow: HINT: Try running `pip install -U 'mlflow>=1.0.0'`$"}
    cases["+logger.mine.project=x"] = r"logger.mine names no logger: \+logger.mine._target_=lightning"
    for word, said in cases.items():
        cfg = composed("train", word, *words)
        with pytest.raises((ModuleNotFoundError, ValueError), match=said):
            build_loggers(cfg, tmp_path, CHEXPERT14, "train", "val", validated(cfg))
