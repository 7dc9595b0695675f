"""A Weights & Biases run read back from the disk, offline: axes, summaries, group, id, answers; and what stays out."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import wandb
from PIL import Image
from wandb.proto import wandb_internal_pb2 as proto

from chexreason.build.training import build_trainer
from chexreason.data.credentialed import ExportError
from chexreason.labels.catalog import CHEXPERT14
from chexreason.training.callbacks.wandb_run import TABLE_COLUMNS, WandbRun, wandb_logger
from chexreason.training.gate import Gate, shareable
from chexreason.types import Prediction, Study
from tests.support.configs import composed
from tests.support.training import OneWeight, Zeros

AGREEMENT = "data use agreement 17"


def answer(study: str, dataset: str, patient: str = "p", image: str = "") -> Prediction:
    return Prediction(study, f"{patient}:1", dataset, f"of {study}", ("Edema",), ("Edema",), ("Edema",), image=image)


def records(run_dir: Path) -> list[proto.Record]:
    """Every record of the one offline run in ``run_dir``: a log of 32 KiB blocks (LevelDB's) behind a header."""
    wandb.teardown()  # W&B's own process writes the file, and may still be at it: this waits for its end
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    data, at, part, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of the block
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            found.append(proto.Record.FromString(part))
            part = b""
    return found


class Module(OneWeight):
    """Answers each validation with the rows it was given, a set at a time."""

    def __init__(self, rows: dict[str, list[Prediction]]) -> None:
        super().__init__()
        self.rows = list(rows.values())

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return [self.rows[dataloader_idx][batch_idx]]

    def on_validation_epoch_end(self):
        self.log("val/a/macro_f1", 0.5 - 0.1 * self.current_epoch)


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB__DISABLE_STATS": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    yield
    wandb.finish()


def run(folder: Path, rows: dict[str, list[Prediction]], **kwargs) -> WandbRun:
    settings = {
        "project": "chexreason",
        "entity": None,
        "group": "study/sft",
        "offline": True,
        "name": "study/sft/seed0",
    }
    folder.mkdir(exist_ok=True)
    logger = wandb_logger(folder, **settings, config={"arm": "sft"})
    gate = Gate(logger, ["a", "b"], (), kwargs.pop("allow_export", None))
    board = WandbRun(**{"n": 2, **kwargs})
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    length = {"max_epochs": 2, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    trainer = L.Trainer(accelerator="cpu", logger=gate, callbacks=[board], **length, **quiet)
    data = Zeros(2, **{name: len(found) for name, found in rows.items()})
    data.train_samples = [SimpleNamespace(study=SimpleNamespace(dataset="a", patient_id="p:0"))]
    trainer.fit(Module(rows), data)
    return board


def tables(folder: Path) -> list[dict]:
    paths = folder.glob("wandb/offline-run-*/files/media/table/completions_*.json")
    return sorted((json.loads(path.read_text()) for path in paths), key=lambda t: t["data"][0][0])


@pytest.mark.slow
def test_an_offline_run_holds_axes_summaries_group_and_answers(tmp_path):
    rows = {"a": [answer(f"a{i}", "a") for i in range(3)], "b": [answer("b0", "b")]}
    run(tmp_path, rows)
    found = records(tmp_path)
    (begun,) = [r.run for r in found if r.WhichOneof("record_type") == "run"][:1]
    assert (begun.run_group, begun.display_name, begun.project) == ("study/sft", "study/sft/seed0", "chexreason")
    metrics = {r.metric.name: r.metric for r in found if r.WhichOneof("record_type") == "metric"}
    assert metrics["val/a/macro_f1"].summary.max
    assert metrics["val/worst/macro_f1"].summary.max
    assert metrics["val/b/fail_rate"].summary.min
    assert {m.step_metric for name, m in metrics.items() if name.startswith(("val/", "train/"))} == {
        "trainer/global_step"
    }
    history = [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
        for r in found
        if r.history.item
    ]
    seen = {row["trainer/global_step"]: row["val/a/macro_f1"] for row in history if "val/a/macro_f1" in row}
    assert list(seen.values()) == pytest.approx([0.5, 0.4])
    first, second = tables(tmp_path)
    assert first["columns"] == list(TABLE_COLUMNS)
    assert [row[1:3] for row in first["data"]] == [["a", "a0"], ["a", "a1"], ["b", "b0"]]
    assert [row[2] for row in second["data"]] == [row[2] for row in first["data"]]  # the same studies each time
    assert (first["data"][0][0], second["data"][0][0]) == tuple(seen)  # and at the figures' steps


def test_the_id_is_that_of_the_directory_and_a_resumed_run_goes_on(tmp_path):
    settings = {"project": "x", "entity": None, "group": "g", "offline": True, "name": "n", "config": {}}
    here, again, there = (wandb_logger(tmp_path / name, **settings)._wandb_init for name in ("a", "a", "b"))
    assert here["id"] == again["id"] != there["id"]
    assert here["resume"] == "allow"
    assert (here["settings"].program, here["settings"].host) == ("-", "-")  # an online run sends the path of the first
    (tmp_path / "a").rename(tmp_path / "a.old-1")  # begun anew
    assert wandb_logger(tmp_path / "a", **settings)._wandb_init["id"] != here["id"]
    (tmp_path / "c" / "wandb").mkdir(parents=True)  # begun by an earlier version
    of_path = sha256(str((tmp_path / "c").resolve()).encode()).hexdigest()[:16]
    assert wandb_logger(tmp_path / "c", **settings)._wandb_init["id"] == of_path


@pytest.mark.slow
def test_answers_that_are_not_public_stay_here_and_pictures_need_the_agreement(tmp_path):
    Image.new("L", (900, 300)).save(tmp_path / "x.png")
    rows = {"a": [answer("a0", "a")], "mine": [answer("m0", "mine", image=str(tmp_path / "x.png"))]}
    rows["a"] = [replace(rows["a"][0], image=str(tmp_path / "x.png"))]
    assert run(tmp_path / "held", rows).withheld
    assert tables(tmp_path / "held") == []
    with pytest.raises(ExportError, match=r"Biases with logger.wandb.media=true: .*allow_export='...' \(found None\)"):
        run(tmp_path / "asked", rows, media=True)
    assert wandb.run is None  # the failed run is over: the next job of this process begins its own
    run(tmp_path / "allowed", rows, media=True, allow_export=AGREEMENT)
    table = tables(tmp_path / "allowed")[0]
    assert table["columns"] == [*TABLE_COLUMNS, "image"]
    kept = [entry.path for r in records(tmp_path / "allowed") for entry in r.artifact.manifest.contents]
    assert any(path.startswith("media/images/") for path in kept), kept  # the table itself only names them
    assert not [r for r in records(tmp_path / "held") if r.artifact.manifest.contents]
    staged = [path.read_bytes() for path in (tmp_path / "allowed/wandb/staging").rglob("*") if path.is_file()]
    assert any(data.startswith(b"\x89PNG") for data in staged)  # until it is synchronised, and nowhere else
    assert not list((tmp_path / "staging").rglob("*"))


def test_the_gate_passes_named_figures_of_enough_patients():
    seen = []
    recorder = SimpleNamespace(log_metrics=lambda found, step: seen.append(found))
    gate = Gate(recorder, (), ["val/b/", "val/a/f1/Edema"])
    gate.log_metrics({"val/a/macro_f1": 0.5, "epoch": 1, "val/b/macro_f1": 0.5, "val/a/f1/Edema": 0.5}, 3)
    for name, value in {"val/a/text": "Jane", "patient 7": 0.5, "val/a/scores": [0.5]}.items():
        with pytest.raises(ExportError, match=f"'{name}' is no figure"):
            gate.log_metrics({name: value}, 3)
    assert seen == [{"val/a/macro_f1": 0.5, "epoch": 1}]
    assert not hasattr(gate, "experiment")


def test_small_groups_are_no_figures_alone_or_by_what_is_left_of_a_mean(tmp_path):
    words = ["logger.min_patients=3", "+logger.mine._target_=lightning.pytorch.loggers.CSVLogger"]
    cfg = composed("train", *words, f"+logger.mine.save_dir={tmp_path}", f"paths.out={tmp_path}")

    def kept(marks: dict[str, int], held: int) -> set[str]:
        """The figures that stay of 4 patients at home, of whom so many have a label, and so many held back."""
        found = [CHEXPERT14.encode(label for label in marks if i < marks[label]) for i in range(4)]
        rows = [Study(str(i), str(i), "phantom_a", Path(), target, (True,) * 14) for i, target in enumerate(found)]
        samples = [SimpleNamespace(study=study) for study in rows]
        data = SimpleNamespace(val_samples={"phantom_a": samples}, held={"held": samples[:held]} if held else {})
        gate = build_trainer(cfg, tmp_path, {}, CHEXPERT14, data).loggers[1]
        figures = [f"val/phantom_a/f1/{label}" for label in marks] + ["val/loss", "val/phantom_a/macro_f1"]
        return {figure.rpartition("/")[2] for figure in figures if figure.startswith(gate.small)}

    assert kept({"Edema": 4, "Fracture": 3}, 0) == set()
    assert kept({"Edema": 4, "Fracture": 3, "Pneumonia": 2}, 2) == {"loss", "Fracture", "Pneumonia"}
    assert kept({"Edema": 4, "Fracture": 1, "Pneumonia": 2}, 3) == {"Fracture", "Pneumonia"}


def test_a_config_leaves_without_places_and_keys():
    config = {"a": "/data/my films/Jane/x", "b": ["~jane/x", "from C:\\Jane", {"token": "k"}], "e": Path("/data")}
    config |= {"c": "</think> and/or a/b", "d": 1.5, "f": None, "g": "https://a:b@host/x", "h": "csv=/mnt/Jane"}
    shown = shareable(config)
    assert (shown["c"], shown["d"], shown["f"]) == ("</think> and/or a/b", 1.5, None)
    assert not [word for word in ("Jane", "jane", "/data", "'k'", "a:b", "/mnt") if word in str(shown)]


def test_a_number_of_answers_is_none_or_some():
    with pytest.raises(ValueError, match=r"completions=-1: use 0"):
        WandbRun(-1)
