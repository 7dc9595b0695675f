"""Scores after another reasoning than the answer's own: what is taken, recorded, refused, and resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexreason import runs
from chexreason.build.data import build_manifests
from chexreason.cli.evaluate import evaluate
from chexreason.cli.scores import score_labels
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model import generate
from chexreason.parsing import format_answer, parse
from chexreason.statistics.partial import partial_path
from chexreason.statistics.predictions import read_predictions, write_predictions
from chexreason.statistics.score_files import aligned, read_scores
from chexreason.types import Completion
from tests.support.configs import composed

pytestmark = pytest.mark.slow
SETTINGS = ("data.sets.phantom_a.source.n={sft: 4, rl: 0, val: 2, test: 4}", "name=demo", "data.test=[phantom_a]")
SETTINGS += ("data.sets.phantom_b.source.n={val: 2, test: 2}", "batch_size=2", "max_new_tokens=6", "samples=0")
CHOSEN = [("Edema",), ("No Finding",), ("Fracture", "Pneumonia"), ("Edema", "Support Devices")]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """One hospital, and the answers of three arms: ``mine`` and ``other`` reason in words, ``silent`` in none."""
    folder = tmp_path_factory.mktemp("out")
    build_manifests(composed("prepare", f"paths.out={folder}", *SETTINGS[:2]), on_error="stop", workers=1)
    found = evaluate(composed("evaluate", f"paths.out={folder}", *SETTINGS[:-1]))
    for arm in ("mine", "other", "silent"):
        thinks = [{"mine": "Clear.", "other": f"A white patch, number {n}.", "silent": ""}[arm] for n in range(4)]
        texts = [format_answer(think, labels) for think, labels in zip(thinks, CHOSEN, strict=True)]
        answers = [
            replace(p, text=text, predicted=labels, named=labels, unknown=(), broken=None)
            for p, text, labels in zip(found, texts, CHOSEN, strict=True)
        ]
        write_predictions(folder / "demo" / "eval" / arm / "predictions.jsonl", answers)
    return folder


def scored(out: Path, reasoning: str, *more: str, arm: str = "mine") -> pd.DataFrame:
    return score_labels(
        composed("scores", f"paths.out={out}", *SETTINGS, f"arm={arm}", f"reasoning={reasoning}", *more)
    )


def odds(out: Path, frame: pd.DataFrame) -> np.ndarray:
    predicted = read_predictions(out / "demo" / "eval" / "mine" / "predictions.jsonl")
    return aligned(frame, predicted, list(CHEXPERT14), "log_odds")


def test_each_reasoning_is_scored_in_a_folder_of_its_own_and_recorded(out):
    own, none, other = (odds(out, scored(out, words)) for words in ("own", "none", "arm:other"))
    np.testing.assert_array_equal(none, odds(out, scored(out, "own", arm="silent")))  # their labels are the same
    np.testing.assert_array_equal(other, odds(out, scored(out, "own", arm="other")))
    np.testing.assert_array_equal(own, odds(out, scored(out, "arm:mine")))
    assert min(abs(own - none).max(), abs(own - other).max(), abs(none - other).max()) > 0.1
    folders = {"mine": "own", "mine@none": "none", "mine@arm-other": "arm:other", "mine@arm-mine": "arm:mine"}
    for name, words in folders.items():
        folder = out / "demo" / "scores" / name
        done = runs.read_done(folder)
        assert done["reasoning"] == read_scores(folder / "scores.parquet").attrs["reasoning"] == words
        assert ("reasoning_sha256" in done) == words.startswith("arm:")
        named = np.array([CHEXPERT14.encode(labels) for labels in CHOSEN], dtype=bool)
        same = (odds(out, read_scores(folder / "scores.parquet")) > 0) == named
        agreement = done["agreement"]["phantom_a"]
        assert (agreement["labels"], agreement["answers"]) == (same.mean(), same.all(1).mean())
        assert agreement["Edema"] == same[:, CHEXPERT14.index("Edema")].mean()


def test_another_arm_that_saw_other_studies_or_data_is_refused_by_name(out):
    path = out / "demo" / "eval" / "part" / "predictions.jsonl"
    answers = read_predictions(out / "demo" / "eval" / "other" / "predictions.jsonl")
    write_predictions(path, answers[1:])
    with pytest.raises(ValueError, match=rf"1 of 4 studies \({answers[0].study_id}\) have no answer in .*eval/part/"):
        scored(out, "arm:part")
    write_predictions(path, [*answers[1:], replace(answers[0], data_sha256="0" * 16)])
    with pytest.raises(ValueError, match=rf"1 of 4 studies \({answers[0].study_id}\) .*or one to other data"):
        scored(out, "arm:part")
    write_predictions(path, answers)
    assert len(scored(out, "arm:part")) == 4  # the way out: it was evaluated on these data
    write_predictions(path, answers[::-1])
    with pytest.raises(ValueError, match=r"mine@arm-part was made for other answers than .*eval/part/"):
        scored(out, "arm:part")
    with pytest.raises(FileNotFoundError, match=r"eval/nobody/predictions\.jsonl does not exist; run the evaluation"):
        scored(out, "arm:nobody")


@pytest.mark.parametrize(
    "words", ["sampled", "sampled:0", "sampled:", "'sampled(4)'", "arm:", "arm:../x", "own:3", "nothing"]
)
def test_another_word_is_refused_with_those_there_are(out, words):
    with pytest.raises(ValueError, match=r"write own, none, sampled:K .*\(sampled:4\), or arm:NAME .*\(arm:sft\)"):
        scored(out, words)


def test_sampled_reasonings_depend_on_their_study_alone_and_a_cut_run_ends_like_a_whole_one(out, monkeypatch, tmp_path):
    kept, done, read = [], runs.mark_done, generate.read_completions

    def keep(folder: Path, what: dict) -> None:
        kept.append(partial_path(folder / runs.SCORES).read_bytes())
        done(folder, what)

    def reasoned(*given) -> list[Completion]:  # the model at hand closes no block in so few tokens
        found = read(*given)
        texts = [format_answer(c.text.replace("<", ""), ("Edema",)) for c in found]
        return [replace(c, parsed=parse(text, CHEXPERT14)) for c, text in zip(found, texts, strict=True)]

    def sampled(name: str, *more: str) -> np.ndarray:
        words = ("temperature=1.5", *more, *([f"run_dir={tmp_path / name}"] if name else []))
        return odds(out, scored(out, "sampled:2", *words))

    monkeypatch.setattr(runs, "mark_done", keep)
    monkeypatch.setattr(generate, "read_completions", reasoned)
    whole = sampled("")
    np.testing.assert_allclose(sampled("alone", "batch_size=1", "samples=3"), whole, atol=1e-4)
    assert abs(sampled("anew", "seed=1") - whole).max() > 1e-3
    folder = out / "demo" / "scores" / "mine@sampled-2"
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / "DONE").unlink()
    (tmp_path / "cut" / "scores.parquet").unlink()
    (tmp_path / "cut" / "scores.partial.jsonl").write_bytes(kept[0][:-40])  # the last of two batches is torn
    sampled("cut")
    assert (tmp_path / "cut" / "scores.parquet").read_bytes() == (folder / "scores.parquet").read_bytes()
    assert json.loads((tmp_path / "cut" / "DONE").read_text())["agreement"] == runs.read_done(folder)["agreement"]
