"""The rules a checkpoint is chosen by: their values, in a real trainer, over a resume, what is refused or not there."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import OmegaConf

from chexreason.build import training as build
from chexreason.confdir import confdir
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.adapters import CARD, read_card
from chexreason.training.callbacks import adapter_export
from chexreason.training.callbacks.adapter_export import AdapterExport
from chexreason.training.callbacks.transfer_rules import CHOSEN_BY, TransferRules, monitor_mode, transfer_rules
from tests.support.training import OneWeight, Zeros

SCORED = st.fixed_dictionaries({"a": st.floats(0, 1), "b": st.floats(0, 1)})


def test_the_rules_by_hand():
    start, limit = {"a": 0.3, "b": 0.4, "c": 0.5}, 0.05
    kept = transfer_rules({"a": 0.6, "b": 0.36, "c": 0.7}, start, "a", limit)
    assert kept == pytest.approx({"worst": 0.36, "mean": 1.66 / 3, "constrained": 0.6})
    lost = transfer_rules({"a": 0.9, "b": 0.25, "c": 0.4}, start, "a", limit)
    assert lost == pytest.approx({"worst": 0.25, "mean": 1.55 / 3, "constrained": -0.1})  # b lost 0.15, c 0.1
    assert transfer_rules({"a": 0.1}, {"a": 0.3}, "a", limit)["constrained"] == 0.1  # home itself is not limited


@settings(max_examples=50, deadline=None)
@given(SCORED, SCORED, SCORED, st.floats(0, 0.5))
def test_a_checkpoint_within_the_limit_beats_one_beyond_it(start, one, other, max_loss):
    values = [transfer_rules(f1, start, "a", max_loss)["constrained"] for f1 in (one, other)]
    within = [start["b"] - f1["b"] - max_loss <= 0 for f1 in (one, other)]
    if within == [True, False]:
        assert values[0] > values[1]
    if within == [False, False] and one["b"] > other["b"]:
        assert values[0] >= values[1]


class Scores(L.Callback):
    """Stands where the label-F1 callback stands, and logs the scores of each validation from a list."""

    def __init__(self, scores: list[dict[str, float]]) -> None:
        self.scores, self.seen = scores, 0

    def on_validation_epoch_end(self, trainer, pl_module):
        scores = self.scores[self.seen]
        figures = {f"val/{name}" if "/" in name else f"val/{name}/macro_f1": value for name, value in scores.items()}
        pl_module.log_dict(figures, sync_dist=True)
        self.seen += 1


def run(scores, rules, *more, steps=4, path=None, num_sanity_val_steps=0):
    """Train ``steps`` steps from the checkpoint ``path``, a validation after each; returns the trainer."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        num_sanity_val_steps=num_sanity_val_steps,
        callbacks=[Scores(scores), rules, *more],
        enable_checkpointing=any(isinstance(m, ModelCheckpoint) for m in more),
        **quiet,
    )
    trainer.fit(OneWeight(), Zeros(1, a=1, b=1), ckpt_path=path)
    return trainer


SCORES = [{"a": 0.3, "b": 0.4}, {"a": 0.5, "b": 0.39}, {"a": 0.6, "b": 0.3}, {"a": 0.4, "b": 0.41}]
BEST = {"worst": 4, "mean": 3, "constrained": 2}  # the step each rule chooses; home alone chooses 3


@pytest.mark.parametrize("rule", CHOSEN_BY)
def test_a_real_trainer_chooses_by_the_rule(rule, tmp_path):
    keep = ModelCheckpoint(tmp_path, monitor=f"val/{rule}/macro_f1", mode="max", filename="{step}")
    run(SCORES, TransferRules("a", max_loss=0.02), keep)
    assert keep.best_model_path.endswith(f"step={BEST[rule]}.ckpt")


def test_early_stopping_reads_it_in_the_same_validation():
    stop = EarlyStopping("val/worst/macro_f1", mode="max", patience=1)
    trainer = run([SCORES[1], SCORES[0], SCORES[0], SCORES[0]], TransferRules("a"), stop)
    assert trainer.global_step == 2


@pytest.mark.parametrize("none", [math.nan, math.inf])
def test_a_validation_without_a_score_chooses_no_adapter_and_stops_no_run(none, monkeypatch):
    saved, monitor = [], "val/a/macro_f1"
    monkeypatch.setattr(adapter_export, "save_adapter", lambda *given: saved.append((given[1].name, given[2]["value"])))
    monkeypatch.setattr(OneWeight, "policy", None, raising=False)
    watching = build.EarlyStopping(monitor, mode="max", patience=2), AdapterExport("adapter", monitor, "max", {})
    scores = [{"a": value, "b": 0.5} for value in (0.75, none, 0.25, 0.125, none, 0.5, none)]
    trainer = run(scores, TransferRules("a"), *watching, steps=6, num_sanity_val_steps=1)
    assert (trainer.global_step, watching[0].wait_count) == (6, 0)
    assert saved == [("best", 0.25), ("best", 0.5), ("last", None)]
    assert watching[0].state_key == EarlyStopping(monitor, mode="max").state_key  # in checkpoints of earlier versions


def test_a_given_baseline_is_what_counts():
    trainer = run(SCORES, TransferRules("a", baseline={"a": 0.0, "b": 0.9}), steps=1)
    assert float(trainer.callback_metrics["val/constrained/macro_f1"]) == pytest.approx(-(0.9 - 0.4 - 0.02))


START = {"a": 0.2, "b": 0.45}  # before training: every step of SCORES has lost more than 0.02 at b, the last one least


def test_the_constrained_rule_counts_from_before_training(tmp_path):
    keep = ModelCheckpoint(tmp_path, monitor="val/constrained/macro_f1", mode="max", filename="{step}")
    trainer = run([START, *SCORES], rules := TransferRules("a", "val/constrained/macro_f1"), keep, steps=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert rules.baseline == pytest.approx(START)
    again = TransferRules("a", "val/constrained/macro_f1")
    resumed = run(SCORES[2:], again, keep, path=str(tmp_path / "last.ckpt"))  # one validation a step: not measured anew
    assert again.baseline == pytest.approx(START)
    assert keep.best_model_path.endswith("step=4.ckpt")
    assert float(resumed.callback_metrics["val/constrained/macro_f1"]) == pytest.approx(-(0.45 - 0.41 - 0.02))


OWN = {"a": {"f1/Edema": 0.2, "f1/Fracture": 0.8, "macro_f1": 0.5}, "b": {"f1/Edema": 0.3, "macro_f1": 0.3}}


def test_hospitals_are_compared_on_the_labels_that_all_judge(tmp_path):
    """Home is judged on two labels and scores 0.5 over both; the label that the other hospital judges too has 0.2."""
    scores = [{f"{name}/{key}": v for name, own in OWN.items() for key, v in own.items()}] * 4
    trainer = run(scores, rules := TransferRules("a"), steps=1)
    values = {rule: float(trainer.callback_metrics[f"val/{rule}/macro_f1"]) for rule in CHOSEN_BY}
    assert values == pytest.approx({"worst": 0.2, "mean": 0.25, "constrained": 0.2})
    assert rules.baseline == pytest.approx({"a": 0.2, "b": 0.3})
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    old = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state = next(state for state in old["callbacks"].values() if "baseline" in state)
    del state["common"]  # as runs wrote it before
    state["baseline"] = {"a": 0.5, "b": 0.3}
    torch.save(old, tmp_path / "old.ckpt")
    for name, home in (("last.ckpt", 0.2), ("old.ckpt", 0.5)):  # a run goes on by the labels it was begun with
        again = run(scores, TransferRules("a"), steps=2, path=str(tmp_path / name))
        assert float(again.callback_metrics["val/constrained/macro_f1"]) == pytest.approx(home)


def test_hospitals_without_a_common_label_are_not_compared():
    scores = [{"a/f1/Edema": 0.2, "a/macro_f1": 0.2, "b/f1/Fracture": 0.3, "b/macro_f1": 0.3}]
    assert "val/worst/macro_f1" not in run(scores, TransferRules("a"), steps=1).callback_metrics
    with pytest.raises(ValueError, match=r"worst/macro_f1: no label is judged by all of data.val=\['a', 'b'\]"):
        run(scores, TransferRules("a", "val/worst/macro_f1"), steps=1)


def test_a_few_batches_before_training_are_no_baseline():
    run([START, *SCORES], rules := TransferRules("a"), num_sanity_val_steps=1)
    assert rules.baseline == pytest.approx(SCORES[0])


def test_what_cannot_be_chosen_by_is_refused():
    trainer = SimpleNamespace(datamodule=SimpleNamespace(val_names=("a", "b")))
    with pytest.raises(ValueError, match=r"max_loss=-0.1: use 0 or more"):
        TransferRules("a", max_loss=-0.1)
    with pytest.raises(ValueError, match=r"data.home=c is not validated: add it to data.val=\['a', 'b'\]"):
        TransferRules("c").on_fit_start(trainer, None)
    with pytest.raises(ValueError, match="baseline lacks b"):
        TransferRules("a", baseline={"a": 0.1}).on_fit_start(trainer, None)
    with pytest.raises(ValueError, match="a set called worst"):
        TransferRules("a").on_fit_start(SimpleNamespace(datamodule=SimpleNamespace(val_names=("a", "worst"))), None)


def test_the_yaml_holds_the_constructors_defaults():
    node = OmegaConf.to_container(OmegaConf.load(f"{confdir()}/callbacks/default.yaml"))["transfer"]
    parameters = inspect.signature(TransferRules).parameters
    assert node == {name: p.default for name, p in parameters.items() if name not in ("home", "monitor")}


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val/loss", "min"),
        ("val/phantom_a/fail_rate", "min"),
        ("val/worst/macro_f1", "max"),
        ("val/phantom_a/macro_f1_supported", "max"),
        ("val/phantom_a/f1/Pleural Effusion", "max"),
        ("train/reward", "max"),
        ("train/reward/jaccard", "max"),
    ],
)
def test_the_mode_follows_the_monitor(monitor, mode):
    assert monitor_mode(monitor, None) == monitor_mode(monitor, mode) == mode
    other = {"min": "max", "max": "min"}[mode]
    with pytest.raises(ValueError, match=f"phase.mode={other} would keep the worst phase.monitor={monitor}: leave"):
        monitor_mode(monitor, other)


def test_a_monitor_that_tells_nothing_needs_a_mode():
    assert monitor_mode("train/entropy", "min") == "min"
    with pytest.raises(ValueError, match=r"phase.monitor=train/entropy does not tell .* set phase.mode=min or max"):
        monitor_mode("train/entropy", None)
    with pytest.raises(ValueError, match=r"phase.mode=up: use min, max or null"):
        monitor_mode("val/loss", "up")


@pytest.mark.slow
@pytest.mark.parametrize("rule", CHOSEN_BY)
def test_a_monitor_alone_says_how_a_run_chooses_and_stops(rule, tmp_path):
    def trainer(*overrides):
        with initialize_config_dir(confdir(), version_base="1.3"):
            cfg = compose("train", ["phase=sft", *overrides])
        return build.build_trainer(cfg, tmp_path, {}, CHEXPERT14, SimpleNamespace(val_samples={}, held={}))

    monitor = f"phase.monitor=val/{rule}/macro_f1"
    for overrides, mode in ((), "min"), ((monitor,), "max"):
        watching = [c for c in trainer(*overrides).callbacks if isinstance(c, (AdapterExport, EarlyStopping))]
        assert [c.mode for c in watching] == [mode] * 2
    (rules,) = [c for c in trainer(monitor).callbacks if isinstance(c, TransferRules)]
    assert rules.monitor == f"val/{rule}/macro_f1"
    with pytest.raises(ValueError, match=r"phase.mode=min would keep"):
        trainer(monitor, "phase.mode=min")


def test_a_run_that_never_validated_says_that_it_wrote_no_best_adapter(tmp_path, monkeypatch, caplog):
    export = AdapterExport(str(tmp_path), "val/f1", "max", {})
    saved = []
    monkeypatch.setattr(export, "_save", lambda module, which, step, value: saved.append(which))
    trainer = SimpleNamespace(is_global_zero=True, sanity_checking=False, callback_metrics={}, global_step=2)
    export.on_train_end(trainer, None)
    assert saved == ["last"]
    assert f"no validation scored val/f1 before the end: {tmp_path / 'best'} is not written, take last" in caplog.text
    caplog.clear()
    trainer.callback_metrics = {"val/f1": 0.5}
    export.on_validation_end(trainer, None)
    export.on_train_end(trainer, None)
    assert (saved, caplog.text) == (["last", "best", "last"], "")


def test_an_adapter_that_is_not_there_is_told_from_one_of_others_and_its_neighbours_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"adapter {tmp_path}/best is not there$"):
        read_card(tmp_path / "best")
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / CARD).write_text("{}")
    with pytest.raises(FileNotFoundError, match=rf"best is not there; beside it: {tmp_path}/last$"):
        read_card(tmp_path / "best")
    (tmp_path / "best").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"holds no {CARD}: it was not written by chexreason .*; beside it"):
        read_card(tmp_path / "best")
