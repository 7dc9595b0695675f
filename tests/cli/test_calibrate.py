"""``calibrate`` on scored arms that are made up: what it writes, prints and refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig

from chexreason import runs
from chexreason.build.data import build_manifests, choosing, declaration, load_manifest, load_studies
from chexreason.cli import calibrate as verb
from chexreason.cli.calibrate import calibrate_arm
from chexreason.cli.report import report_study
from chexreason.files import write_sealed
from chexreason.labels.catalog import CHEXPERT14
from chexreason.reports.point_card import card_page, remedy_row
from chexreason.statistics.bootstrap import replicates
from chexreason.statistics.few_labels import WAYS
from chexreason.statistics.operating_point import read_point
from chexreason.statistics.predictions import datasets, evaluated_labels, read_predictions, write_predictions
from chexreason.statistics.score_files import MADE_FOR, answers_sha256, score_rows, write_scores
from chexreason.types import Prediction
from tests.support.configs import composed

DATA = (
    "data.sets.phantom_a.source.n={sft: 4, rl: 0, val: 90, test: 60}",
    "data.sets.phantom_b.source.n={val: 4, test: 50}",
    "data.size=48",
    "name=run",
    "arm=sft",
)
FAST = ("n_resamples=50", "n_permutations=5")


def configured(out: Path, *overrides: str) -> DictConfig:
    return composed("calibrate", f"paths.out={out}", *DATA, *FAST, *overrides)


def scored_arm(out: Path, name: str, split: str, sets: tuple[str, ...], adapter: Path, known: float = 2.0) -> None:
    """What ``evaluate`` and ``scores`` leave of an arm whose scores know the truth, and that names too little."""
    cfg = composed(
        "scores", f"paths.out={out}", *DATA[:4], f"name={name}", "arm=sft", f"split={split}", f"adapters=[{adapter}]"
    )
    rng, rows, scores = np.random.default_rng([len(name), len(split)]), [], []
    for dataset in sets:
        declared = declaration(cfg, dataset, load_manifest(cfg, dataset))
        for s in load_studies(cfg, dataset, (split,), CHEXPERT14):
            odds = known * np.array(s.target) + rng.standard_normal(14) - 3
            named, judged = CHEXPERT14.decode(odds > 0), CHEXPERT14.decode(s.mask)
            found = tuple(x for x in named if x in judged)
            true = CHEXPERT14.decode(s.target)
            facts = {"policy": declared["policy"], "data_sha256": declared["data_sha256"]}
            rows.append(Prediction(s.study_id, s.patient_id, dataset, "", found, true, judged, **facts))
            scores.append(odds)
    answers, scored = (out / name / kind / "sft" for kind in ("eval", "scores"))
    for folder in (answers, scored):
        shutil.rmtree(folder, ignore_errors=True)
    with runs.open_run(answers, cfg):
        write_predictions(answers / "predictions.jsonl", rows)
        runs.mark_done(answers, {})
    with runs.open_run(scored, cfg):
        write_scores(scored / "scores.parquet", score_rows(rows, "log_odds", CHEXPERT14.labels, np.array(scores)))
        runs.mark_done(scored, {MADE_FOR: answers_sha256(answers / "predictions.jsonl")})


def adapter_card(folder: Path, **facts: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    write_sealed(folder / "chexreason.json", {"chosen_on": [], **facts})
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study")
    build_manifests(configured(out), on_error="stop", workers=0)
    adapter = adapter_card(out / "run" / "sft" / "seed0" / "adapter" / "best")
    scored_arm(out, "run/val", "val", ("phantom_a",), adapter)
    scored_arm(out, "run", "test", ("phantom_a", "phantom_b"), adapter)
    return out


def test_it_writes_a_point_and_a_card_of_home_and_of_the_other_hospital(study: Path) -> None:
    point, card = calibrate_arm(configured(study))
    folder = study / "run" / "calibrate" / "sft"
    assert read_point(folder / "operating_point.json") == point
    assert json.loads((folder / "card.json").read_text())["places"].keys() == {"phantom_a", "phantom_b"}
    assert (point.target, point.at, point.origin.dataset, point.origin.labels) == (
        "sensitivity", 0.9, "phantom_a", CHEXPERT14.labels
    )  # fmt: skip
    assert point.salt == ""
    assert len(point.ids) == 90
    assert point.caveats == ()
    assert [p + n for p, n in zip(point.positives, point.negatives, strict=True)] == [90] * 14
    for label, row in card["tuning"]["labels"].items():
        assert row["specificity"]["value"] >= 0.9 or label in point.rare
    gain = card["places"]["phantom_b"]["gain"]["sensitivity"]
    assert gain["low"] > 0.1  # the answers name too little
    assert card["places"]["phantom_b"]["skill above permuted scores"]["macro_f1"]["low"] > 0.1
    away = datasets(read_predictions(study / "run" / "eval" / "sft" / "predictions.jsonl"))["phantom_b"]
    own = replicates(away, evaluated_labels(away, CHEXPERT14), 1).value["macro_f1"]  # over the nine that it judges
    assert remedy_row(card["places"]["phantom_b"])["own"] == pytest.approx(own)
    errors = card["places"]["phantom_a"]["calibration_error"]
    assert errors["calibrated"] < errors["uncalibrated"] / 2
    assert card["places"]["phantom_a"]["metadata_missing"] == ["visit"]
    page = (folder / "card.md").read_text()
    assert "# Operating point: sensitivity at specificity 0.9" in page
    assert "**Transport to phantom_b: aimed (where fitted) against attained**" in page
    assert f"one shared cut: {', '.join(point.rare)}." in page
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    calibrate_arm(configured(study))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_the_printed_card_has_80_columns(study: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["calibrate", f"paths.out={study}", *DATA, *FAST, "target=f1", "transport=null"])
    verb.main()
    said = capsys.readouterr().out.splitlines()
    assert max(map(len, said)) <= 80
    assert any("│ Support Devices" in line for line in said)
    assert not any("Transport" in line for line in said)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("tuning={out}/run",), r"60 studies in .* are not in split val of phantom_a, .*never on test"),
        (("arm=grpo",), r"grpo is not there .* -m chexreason\.cli\.evaluate arm=grpo name=run/val split=val"),
        (("target=accuracy",), "target=accuracy: choose one of"),
        (("at=1.0",), "between 0 and 1"),
        (("calibration=isotonic",), "choose one of platt, temperature"),
        (("data.home=phantom_b",), "has no studies of data.home=phantom_b; it has: phantom_a"),
        (("scores=frequency",), "no frequency scores for 90 studies"),
        (("scores=odds",), "scores=odds: choose one of log_odds, frequency"),
        (("transport={out}/nowhere",), "transport=.*nowhere: no such folder"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_and_nothing_is_written(study: Path, tmp_path: Path, overrides, words) -> None:
    chosen = [word.format(out=study) for word in overrides]
    with pytest.raises((ValueError, KeyError, FileNotFoundError), match=words):
        calibrate_arm(configured(study, f"run_dir={tmp_path}", *chosen))
    assert not list(tmp_path.iterdir())


def test_a_label_without_positives_and_too_few_negatives_are_named(study: Path, tmp_path: Path) -> None:
    point, _ = calibrate_arm(configured(study, f"run_dir={tmp_path}", "min_positives=30", "at=0.97"))
    page = (tmp_path / "card.md").read_text()
    assert "it would take 125 patients without the label)" in page
    assert "Fewer than 30 positives, one shared cut" in page
    assert len(point.rare) > 3


def test_another_adapter_at_the_other_place_is_refused(study: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(study, tmp_path / "out"))
    other = adapter_card(out / "run" / "other" / "best")
    (other / "adapter_model.safetensors").write_bytes(b"other weights")
    scored_arm(out, "run", "test", ("phantom_a",), other)
    with pytest.raises(ValueError, match="was fitted with other adapters"):
        calibrate_arm(configured(out, f"run_dir={tmp_path}/point"))
    assert not (tmp_path / "point").exists()


def test_studies_that_chose_the_checkpoint_set_no_cut_or_are_said(study: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(study, tmp_path / "out"))
    cfg = configured(out)
    for share, n in ((0.0, 90), (0.5, 45)):
        adapter = adapter_card(out / f"{share}" / "best", chosen_on=["phantom_a"], tuning=share)
        for name, split in (("run/val", "val"), ("run", "test")):
            scored_arm(out, name, split, ("phantom_a",), adapter)
        point, card = calibrate_arm(cfg)
        assert len(point.ids) == n
        assert bool(card["caveats"]) == (share == 0)
        chose, kept = choosing(cfg, "phantom_a", CHEXPERT14, share)
        assert {*point.ids} == {s.study_id for s in (kept or chose)}
        assert not {s.patient_id for s in kept} & {s.patient_id for s in chose}
    assert "chose this arm's checkpoint" not in (out / "run" / "calibrate" / "sft" / "card.md").read_text()


def test_the_report_shows_the_card_and_refuses_that_of_other_scores(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "out")
    out = tmp_path / "out"
    calibrate_arm(configured(out))
    cfg = composed("report", f"paths.out={out}", *DATA[:4], "arms=[sft]", "n_resamples=50", "n_cases=1", "images=none")
    figures = report_study(cfg)
    assert set(figures["points"]["sft"]["places"]) == {"phantom_a", "phantom_b"}
    page = (out / "run" / "report.html").read_text()
    assert page.count("SFT, cut, no film") == 2
    assert "beyond its twin" in page
    scores = pd.read_parquet(out / "run/scores/sft/scores.parquet")
    scores.iloc[::-1].to_parquet(out / "run/scores/sft/scores.parquet", index=False)
    with pytest.raises(
        ValueError, match=r"card\.json was made of other answers or scores .* chexreason\.cli\.calibrate"
    ):
        report_study(cfg)
    shutil.rmtree(out / "run/calibrate/sft")  # as the error says
    assert report_study(cfg)["points"] == {}


def test_a_few_labels_of_the_other_hospital_are_on_the_card(study: Path) -> None:
    point, card = calibrate_arm(configured(study, "target=f1", "few_labels=[0,5]", f"run_dir={study}/few"))
    assert "few_labels" not in card["places"]["phantom_a"]
    gains = card["places"]["phantom_b"]["few_labels"]
    assert {way: list(by_n) for way, by_n in gains.items()} == {way: ["0", "5"] for way in WAYS}
    assert gains["free cuts"]["0"]["value"] == pytest.approx(card["places"]["phantom_b"]["gain"]["macro_f1"]["value"])
    (table,) = (part for part in card_page(point, card) if getattr(part, "header", ("",))[0] == "n")
    assert len(table.rows) == 2
    with pytest.raises(ValueError, match="draw=sorted: write random or consecutive"):
        calibrate_arm(configured(study, "few_labels=[0,5]", "draw=sorted", f"run_dir={study}/few"))


@pytest.mark.parametrize(("public", "mode"), [("true", 0o755), ("false", 0o700)])
def test_a_point_of_a_set_that_is_not_public_is_its_owners(study: Path, tmp_path: Path, public: str, mode: int) -> None:
    before = os.umask(0o022)
    try:
        calibrate_arm(configured(study, f"data.sets.phantom_b.public={public}", f"run_dir={tmp_path}/point"))
    finally:
        os.umask(before)
    assert (tmp_path / "point").stat().st_mode & 0o777 == mode
