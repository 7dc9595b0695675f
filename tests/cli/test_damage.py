"""Every file of a run directory, damaged in every way: the same command ends alike, or names the file and a way out."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from chexreason import runs
from chexreason.build.data import build_manifests
from chexreason.cli.evaluate import evaluate
from chexreason.cli.report import report_study
from chexreason.cli.scores import score_labels
from chexreason.cli.sweep import damages
from chexreason.cli.tables import tables
from chexreason.cli.train import train
from chexreason.errors import friendly
from chexreason.renames import UNREAD
from chexreason.sweep.launch import Job
from chexreason.training.callbacks.checkpoint import check_checkpoint, write_checkpoint
from tests.support.configs import composed
from tests.support.deep import all_deep_but

pytestmark = pytest.mark.slow
SMALL = (
    "data.sets.phantom_a.source.n={sft: 4, rl: 4, val: 2, test: 2}",
    "data.sets.phantom_b.source.n={val: 2, test: 2}",
    "prompt=only_label",
)
TRAIN = ("preflight=false", "model.max_new_tokens=8", "callbacks.checkpoint_every=1", "callbacks.progress=false")
GRPO = ("phase=grpo", "phase.batch_size=2", "phase.rollouts=4", "phase.val_check_interval=2")
GRPO += ("phase.module.group_size=2", "callbacks.collapse.window=1")
RUNS: dict[str, tuple[Callable, str, tuple[str, ...]]] = {
    "sft": (train, "train", (*TRAIN, "phase=sft", "phase.batch_size=2", "phase.accumulate=1", "phase.max_epochs=2")),
    "grpo": (train, "train", (*TRAIN, *GRPO)),
    "evaluate": (evaluate, "evaluate", ("arm=sft", "max_new_tokens=8", "adapters=[{out}/run/sft/seed0/adapter/best]")),
    "scores": (score_labels, "scores", ("arm=sft", "max_new_tokens=8", "samples=1")),
}
FOLDERS = {"sft": "sft/seed0", "grpo": "grpo/seed0", "evaluate": "eval/sft", "scores": "scores/sft"}
ADAPTER = [f"adapter/best/{name}" for name in ("adapter_model.safetensors", "adapter_config.json", "chexreason.json")]
TIMES = ["stage.json", "attempts.jsonl"]
CUT = ["checkpoints/last.ckpt", "config.yaml", "metrics/version_0/metrics.csv", "samples.jsonl", *TIMES, *ADAPTER]
DONE = ["DONE", "config.yaml", *TIMES]
FILES = {
    ("sft", "cut"): CUT,
    ("grpo", "cut"): ["rewards-rank0.csv", "collapse.json", *CUT],
    ("sft", "done"): [*DONE, "metrics.csv", *ADAPTER],
    ("grpo", "done"): [*DONE, "metrics.csv", "rewards-rank0.csv", "collapse.json"],
    ("evaluate", "done"): [*DONE, "predictions.jsonl", "metrics.json"],
    ("scores", "done"): [*DONE, "scores.parquet"],
}


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[: len(data) * 2 // 3],
    "emptied": lambda data: b"",
    "flipped": flipped,
    "zeros": lambda data: bytes(len(data)),
    "torn": lambda data: data[: len(data) // 3] + bytes(64) + data[len(data) // 3 + 64 :],
    "deleted": lambda data: None,
}
CASES = [(*run, file, damage) for run, files in FILES.items() for file in files for damage in DAMAGES]
REPRESENTATIVE = ("sft", "cut", "checkpoints/last.ckpt", "flipped")


def apply(path: Path, damage: str) -> None:
    data = DAMAGES[damage](path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def configured(run: str, out: Path, *overrides: str) -> DictConfig:
    _, config, own = RUNS[run]
    return composed(config, f"paths.out={out}", *SMALL, *(word.format(out=out) for word in own), *overrides)


def start(run: str, out: Path, *overrides: str) -> None:
    with friendly(ValueError, KeyError, OSError, runs.RunError):
        RUNS[run][0](configured(run, out, *overrides))


def result(run: str, folder: Path) -> dict[str, object]:
    """What a finished run is for: its DONE, which vouches for its files, and the weights, answers and scores."""
    made = [folder / name for name in (runs.PREDICTIONS, runs.METRICS, runs.SCORES)]
    made += [folder / "adapter" / which / "adapter_model.safetensors" for which in ("best", "last")]
    place = rb'"image": "[^"]*/data/'  # of the films of a copied study
    return runs.read_done(folder) | {
        str(p.relative_to(folder)): re.sub(place, b"", p.read_bytes()) for p in made if p.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, dict[str, object]]]:
    """A study of all four runs, and their results."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    build_manifests(composed("prepare", f"paths.out={out}", *SMALL[:2]), on_error="stop", workers=1)
    for run in RUNS:
        start(run, out)
    return out, {run: result(run, out / "run" / FOLDERS[run]) for run in RUNS}


def damaged(whole: Path, tmp_path: Path, run: str, state: str, file: str, damage: str) -> Path:
    """A copy of the study in which one file is damaged; ``state`` "cut": the run was killed before its end."""
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    folder = out / "run" / FOLDERS[run]
    if state == "cut":
        for name in ("DONE", "metrics.csv", "adapter/last"):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    apply(folder / file, damage)
    return out


@pytest.mark.parametrize("case", all_deep_but(REPRESENTATIVE, CASES), ids="-".join)
def test_the_same_command_ends_alike_or_names_the_file_and_a_way_out_that_works(whole, tmp_path, capsys, case):
    run, state, file, damage = case
    out = damaged(whole[0], tmp_path, run, state, file, damage)
    capsys.readouterr()
    try:
        start(run, out)
    except SystemExit:
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ")
        path = out / "run" / FOLDERS[run] / file
        assert str(path) in said or "another config: " in said
        if "delete it" in said:
            path.unlink()
            start(run, out)
        else:
            assert "restart=true" in said
            start(run, out, "restart=true")
    assert result(run, out / "run" / FOLDERS[run]) == whole[1][run]


@pytest.mark.parametrize("run", RUNS)
def test_a_phase_never_reads_what_its_table_says_it_does_not(whole, tmp_path, run):
    """It runs to the same end without those settings; so a change of one of them is no other run."""
    out, results = whole
    cfg = configured(run, out, f"run_dir={tmp_path / 'run'}")
    with open_dict(cfg):
        for name in UNREAD[run]:
            parent, _, key = name.rpartition(".")
            (OmegaConf.select(cfg, parent) if parent else cfg).pop(key, None)
    RUNS[run][0](cfg)
    assert result(run, tmp_path / "run") == results[run]


def test_another_reward_is_the_same_sft_run_and_another_grpo_run(whole, capsys):
    start("sft", whole[0], "reward=nuanced", "callbacks.collapse.window=3", "objective=dr_grpo")
    with pytest.raises(SystemExit):
        start("grpo", whole[0], "reward=nuanced")
    assert "holds a run with another config: reward" in capsys.readouterr().err


def report(out: Path) -> None:
    report_study(composed("report", f"paths.out={out}", *SMALL[:2], "arms=[sft]", "n_resamples=20", "images=none"))


def ranking(out: Path) -> None:
    few = ("name=run", "arms=[sft]", "table=ranking", "n_resamples=20")
    tables(composed("tables", f"paths.out={out}", *SMALL[:2], *few))


def plan(out: Path) -> None:
    """What a sweep asks of its finished cells before it starts, and says in its plan."""
    folder = out / "run" / FOLDERS["evaluate"]
    job = Job("sft", "x", "evaluate", (sys.executable, "-m", "evaluate"), folder, folder / "DONE", folder / "log")
    if found := list(damages([job])):
        raise ValueError(found[0])


TRAINED = ["sft/seed0/metrics.csv", "grpo/seed0/collapse.json", "grpo/seed0/rewards-rank0.csv", "grpo/seed0/DONE"]
READERS = {
    report: ["eval/sft/predictions.jsonl", "eval/sft/DONE", *TRAINED],
    ranking: ["eval/sft/predictions.jsonl", "eval/sft/config.yaml", "scores/sft/scores.parquet", "scores/sft/DONE"],
    plan: ["eval/sft/predictions.jsonl", "eval/sft/DONE"],
}
READ = [f"{reader.__name__} {file} {damage}" for reader in READERS for file in READERS[reader] for damage in DAMAGES]


@pytest.mark.parametrize("case", all_deep_but("report eval/sft/predictions.jsonl flipped", READ))
def test_who_reads_a_damaged_file_names_it(whole, tmp_path, case):
    name, file, damage = case.split()
    reader = {reader.__name__: reader for reader in READERS}[name]
    out = Path(shutil.copytree(whole[0], tmp_path / "out"))
    reader(out)
    apply(out / "run" / file, damage)
    if file.endswith("/DONE") and damage == "deleted":
        return reader(out)  # a run that is not finished
    with pytest.raises((ValueError, OSError), match=f"{out}/run/{file}"):
        reader(out)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_flipped_bit_anywhere_in_a_checkpoint_is_refused_or_changes_nothing(tmp_path):
    """Among them headers at which zip says "encrypted", others at which torch reads memory that nobody wrote."""
    path, state = tmp_path / "last.ckpt", {"state_dict": {"a": torch.arange(16.0)}, "loops": {"epoch": 3}}
    write_checkpoint(state, path)
    check_checkpoint(path)
    sound, refused = path.read_bytes(), 0
    for place in range(0, len(sound) * 8, 7):
        flipped = bytearray(sound)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            check_checkpoint(path)
        except ValueError as fault:
            assert re.fullmatch(rf"{path} is damaged \(.+\)\. .* restart=true, which sets aside .*", str(fault))  # noqa: PT017
            refused += 1
            continue
        found = torch.load(path, weights_only=True)
        assert torch.equal(found["state_dict"]["a"], state["state_dict"]["a"])
        assert found["loops"] == state["loops"]
    assert refused >= len(sound) * 8 // 7 - 16  # all but those that take the hash away, and nothing else
    torch.save(state, path)  # as an earlier version wrote it
    check_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        check_checkpoint(path)
