"""``shift``: a hospital without labels against home, from answers, scores and films."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexreason.build.data import load_manifest
from chexreason.cli.prepare import prepare
from chexreason.cli.shift import compare_hospitals, label_table
from chexreason.labels.catalog import CHEXPERT14
from chexreason.statistics.predictions import write_predictions
from chexreason.statistics.score_files import score_rows, write_scores
from chexreason.types import Prediction
from tests.support.configs import composed

pytestmark = pytest.mark.slow
LABELS = CHEXPERT14.labels


def answers(frame: pd.DataFrame, *, labelled: bool) -> list[Prediction]:
    found = []
    for row in frame[frame["split"] == "test"].to_dict("records"):
        truth = tuple(label for label in LABELS if row[label] == 1.0)
        said = ("Edema",) if labelled else ("Fracture",)
        known = (said, truth, LABELS) if labelled else ((), (), ())
        found.append(Prediction(row["study_id"], row["patient_id"], row["dataset"], "", *known, named=said, unknown=()))
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Small phantom hospitals; B's labels are forgotten. Scores follow what A's table says."""
    words = [f"paths.out={tmp_path_factory.mktemp('shift')}", "data.size=64", "data.shift=acquisition"]
    counts = {"phantom_a": "{sft: 160, rl: 4, val: 60, test: 150}", "phantom_b": "{val: 4, test: 60}"}
    words += [f"data.sets.{name}.source.n={n}" for name, n in counts.items()]
    prepare(composed("prepare", *words, "audit=false"))
    cfg = composed("shift", *words, "name=x", "arm=sft", "away=phantom_b", "draws=39", "permutations=99", "limit=9")
    rows = {name: load_manifest(cfg, name).frame for name in ("phantom_a", "phantom_b")}
    found = [p for name, frame in rows.items() for p in answers(frame, labelled=name == "phantom_a")]
    write_predictions(Path(cfg.predictions), found)
    signs = pd.concat([frame[frame["split"] == "test"] for frame in rows.values()])[list(LABELS)].fillna(0)
    rng = np.random.default_rng(0)
    frame = score_rows(found, "log_odds", LABELS, 2.0 * (signs.to_numpy() == 1) + rng.normal(size=signs.shape))
    return words, cfg, frame


def test_a_hospital_without_labels_is_set_beside_home(study):
    _, cfg, frame = study
    figures = compare_hospitals(cfg)
    assert "no label scores: run scores for this arm" in " ".join(figures["said"])
    assert (figures["labels"]["Edema"]["called"], figures["labels"]["Fracture"]["called"]) == ([1.0, 0.0], [0.0, 1.0])
    assert figures["energy_p"] == 0.01  # of 99 permutations
    home, away = figures["unlike"]["any"]
    assert home <= 0.1 < 0.5 < away == len(figures["unlike_films"]) / 60
    write_scores(Path(cfg.scores), frame)
    figures = compare_hospitals(cfg)
    assert not figures["prior_usable"]
    assert 0.05 < figures["labels"]["Edema"]["prior"][0] < 0.3
    assert max(map(len, label_table(figures).splitlines())) <= 80
    folder = Path(cfg.run_dir)
    assert "(refused)" in (folder / "shift.html").read_text()
    assert json.loads((folder / "shift.json").read_text())["prior_p"] == figures["prior_p"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("away=null", "away=None: name another set"),
        ("away=phantom_a", "name another set than home=phantom_a"),
        ("away=nowhere", "away=nowhere: name another set than home=phantom_a: phantom_a, phantom_b"),
        ("home=nowhere away=phantom_b", r"has no answer to nowhere, only to phantom_a, phantom_b: evaluate arm=sft"),
    ],
)
def test_what_is_missing_is_named_with_the_way_out(study, word, told):
    words, *_ = study
    with pytest.raises(ValueError, match=told):
        compare_hospitals(composed("shift", *words, "name=x", "arm=sft", *word.split()))
