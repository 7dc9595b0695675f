"""The whole study in miniature, through the commands' own functions, and a kill in the middle of one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from chexreason.build.data import build_manifests
from chexreason.cli.evaluate import evaluate
from chexreason.cli.report import report_study
from chexreason.cli.scores import score_labels
from chexreason.cli.train import train
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.adapters import answer_tokens
from chexreason.statistics.score_files import aligned
from tests.support.configs import composed

pytestmark = pytest.mark.slow
SMALL = (
    "data.sets.phantom_a.source.n={sft: 24, rl: 16, val: 4, test: 8}",
    "data.sets.phantom_b.source.n={val: 4, test: 8}",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    build_manifests(configured("prepare", folder), on_error="stop", workers=1)
    return folder


def configured(config: str, out: Path, *overrides: str) -> DictConfig:
    return composed(config, f"paths.out={out}", *SMALL, *overrides)


def train_sft(out: Path, *overrides: str):
    # answers cut at 16 tokens are what preflight refuses: here they only have to be quick
    fast = ("phase.max_epochs=2", "phase.batch_size=8", "model.max_new_tokens=16", "callbacks.progress=false")
    fast += ("preflight=false",)
    return train(configured("train", out, "experiment=demo_sft", *fast, *overrides))


def train_grpo(out: Path, *overrides: str):
    fast = ("phase.rollouts=3", "phase.batch_size=4", "phase.val_check_interval=2", "model.max_new_tokens=16")
    return train(configured("train", out, "experiment=demo_grpo", "callbacks.progress=false", *fast, *overrides))


def test_the_whole_study(out):
    sft, _ = train_sft(out)
    assert 0 < sft["val/loss"] < 10
    assert {"val/phantom_a/macro_f1", "val/phantom_b/macro_f1", "val/phantom_a/f1/Edema"} <= set(sft)
    assert "val/phantom_b/f1/Fracture" not in sft  # hospital B does not judge it
    grpo, _ = train_grpo(out)
    assert {"train/reward", "train/reward/jaccard", "train/kl", "train/clip_fraction", "train/entropy"} <= set(grpo)
    learned = [answer_tokens(out / "demo" / phase / "seed0" / "adapter" / "best") for phase in ("sft", "grpo")]
    assert learned[0] == learned[1] > 0  # what a second GRPO stage is checked against
    for arm in ("base", "sft", "grpo"):
        adapters = [] if arm == "base" else [str(out / "demo" / arm / "seed0" / "adapter" / "best")]
        options = ("name=demo", f"arm={arm}", f"adapters={adapters}", "max_new_tokens=16")
        answers = evaluate(configured("evaluate", out, *options))
        assert len(answers) == 16
        assert {a.labelled for a in answers if a.dataset == "phantom_b"} != {answers[0].labelled}
    scores = score_labels(configured("scores", out, *options, "samples=2"))
    assert np.isfinite(aligned(scores, answers, list(CHEXPERT14), "log_odds")).all()
    assert set(np.unique(aligned(scores, answers, list(CHEXPERT14), "frequency")).tolist()) <= {0.0, 0.5, 1.0}
    answered = out / "demo" / "eval" / "grpo" / "predictions.jsonl"
    text = answered.read_text()
    answered.write_text(text + "\n")  # evaluated anew since it was scored
    with pytest.raises(ValueError, match=r"scores/grpo was made for other answers than .*eval/grpo/predictions.jsonl"):
        score_labels(configured("scores", out, *options, "samples=2"))
    answered.write_text(text)
    assert len(score_labels(configured("scores", out, *options, "samples=2"))) == 32  # DONE: read back
    figures = report_study(configured("report", out, "name=demo", "n_resamples=200", "n_cases=4"))
    page = (out / "demo" / "report.html").read_text()
    assert "<img" in page
    saved = json.loads((out / "demo" / "report.json").read_text())
    assert set(saved["arms"]) == {"base", "sft", "grpo"} == set(figures["arms"])
    assert set(saved["arms"]["sft"]["phantom_a"]["macro_f1"]) == {"value", "low", "high"}
    assert {"nothing", "all_labels", "best_constant", "prior"} <= set(saved["trivial"])
    assert {s["name"] for s in saved["stages"]} >= {"train sft", "train grpo", "evaluate base"}
    assert train_sft(out)[1] == {}  # DONE: skipped


def test_a_missing_arm_is_named_with_the_way_out(out):
    with pytest.raises(FileNotFoundError, match=r"run `.*evaluate name=nowhere arm=base data=phantom paths.out=.*`"):
        report_study(configured("report", out, "name=nowhere"))
