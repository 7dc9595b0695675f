"""The prevalence of a label is that of the pool, not of the draw, which the paper's sampler levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from chexreason.audit.facts import set_figures, shift
from chexreason.build import data as built
from chexreason.build.training import build_reward
from chexreason.cli.rewards import rewards
from chexreason.data.manifest import Manifest, ManifestError, read_manifest, write_manifest
from chexreason.data.prepare import MANIFEST_NAME, prepare_set
from chexreason.data.prevalence import pool_counts, pool_marks, prevalence_of
from chexreason.data.selection import PaperSelection
from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.labels.uncertainty import IGNORE, ONES, POSITIVES_ONLY
from chexreason.statistics.trivial import best_constant_answer
from tests.support.manifests import manifest_rows

N = 240_000
POSITIVE = (0.20, 0.20, 0.05, 0.12, 0.03, 0.02, 0.03, 0.23, 0.33, 0.24, 0.01, 0.07, 0.05, 0.29)  # in label order
NUANCED = OmegaConf.create({"_target_": "chexreason.rewards.nuanced.NuancedReward", "collapse": None})
HARD = OmegaConf.create({"_target_": "chexreason.rewards.hard.HardReward"})


@dataclass(frozen=True)
class Hospital:
    """``rows`` as a vendor's: no image is opened, nothing is written."""

    rows: pd.DataFrame
    name: str = "m"
    provenance: Mapping[str, object] = field(default_factory=lambda: {"source": "made up"})
    image_root: Path | None = Path("nowhere")

    def prepare(self, folder: Path, progress) -> pd.DataFrame:
        return self.rows


def config(folder: Path, **node: object) -> DictConfig:
    sets = {"m": {"policy": "positives_only"} | node}
    return OmegaConf.create({"data": {"name": "mine", "folder": str(folder), "home": "m", "sets": sets}})


def test_what_a_pool_judges_depends_on_policy_and_label_list():
    nan = float("nan")
    rows = manifest_rows("m", 5, Edema=[1, 1, 0, -1, nan], Fracture=nan, Pneumonia=[-1, nan, nan, nan, nan])
    pool = pool_marks(rows)
    assert (pool["images"], pool["marks"]["Edema"], pool["marks"]["Fracture"]) == (5, [2, 1, 1, 1], [0, 0, 0, 5])
    judged = {POSITIVES_ONLY: ((2, 5), (0, 5)), ONES: ((3, 4), (1, 1)), IGNORE: ((2, 3), (0, 0))}
    for policy, (edema, pneumonia) in judged.items():
        counts = pool_counts(pool, policy)
        assert (counts["Edema"], counts["Pneumonia"], counts["Fracture"]) == (edema, pneumonia, (0, 0))
    assert pool_counts(pool, ONES, NIH9.labels)["Support Devices"] == (0, 0)  # NIH's nine do not judge it
    assert list(counts) == list(CHEXPERT14)


@pytest.mark.slow
def test_prices_and_constants_of_a_pool_of_240000_are_the_pools(tmp_path):
    """By hand: 10 + 40 x 0.33 for No Finding and 10 + 40 x 0.02 for Fracture; the sampler makes 14.6 of both."""
    rng = np.random.default_rng(0)
    marks = {label: np.zeros(N) for label in CHEXPERT14}
    for label, share in zip(CHEXPERT14, POSITIVE, strict=True):
        marks[label][rng.permutation(N)[: round(share * N)]] = 1.0
    rows = manifest_rows("m", N, split="train", view="AP", **marks)
    select = PaperSelection(views=["AP"])
    made = prepare_set(Hospital(rows), tmp_path / "m", select=select, policy=POSITIVES_ONLY, check=False)
    assert made.split_counts() == {"sft": 2000, "rl": 1000, "val": 500}
    cfg = config(tmp_path)
    draw = prevalence_of(built.load_studies(cfg, "m", ("sft", "rl"), CHEXPERT14), CHEXPERT14)
    assert max(draw.values()) - min(draw.values()) < 0.01  # levelled: what this is about
    found = built.training_prevalence(cfg, CHEXPERT14)
    assert found == pytest.approx(dict(zip(CHEXPERT14, POSITIVE, strict=True)), abs=1e-12)
    prices = build_reward(NUANCED, lambda: built.training_prevalence(cfg, CHEXPERT14)).false_positive_cost
    assert (prices["No Finding"], prices["Fracture"]) == (pytest.approx(23.2), pytest.approx(10.8))
    common = ("No Finding", "Support Devices", "Pleural Effusion", "Lung Opacity", "Atelectasis", "Cardiomegaly")
    assert best_constant_answer(built.training_prevalence(cfg, CHEXPERT14, needed=False)) == common
    assert built.training_prevalence(config(tmp_path, label_list="nih9"), CHEXPERT14)["Support Devices"] == 0.0
    assert list(built.training_prevalence(cfg, NIH9)) == list(NIH9)
    lab = OmegaConf.merge(cfg, {"studies": "prepared", "only": None, "rewards": {"nuanced": NUANCED}})
    assert rewards(lab, [], CHEXPERT14)["nuanced"].false_positive_cost == prices
    assert shift({"m": set_figures(made, POSITIVES_ONLY)}, "m")["labels"]["No Finding"]["prevalence"] == 0.33


def test_an_old_manifest_is_refused_where_prices_need_the_pool_until_it_is_prepared_again(tmp_path, caplog):
    rows = manifest_rows("m", 8, split=["sft"] * 4 + ["rl"] * 2 + ["test"] * 2, Edema=[1, 1, 0, 0, 0, 1, 1, 1])
    cfg, path = config(tmp_path), tmp_path / "m" / MANIFEST_NAME

    def age(**also: object) -> None:
        """What an earlier version wrote: no count of the pool."""
        made = read_manifest(path)
        old = {key: value for key, value in made.provenance.items() if key != "pool"} | also
        write_manifest(Manifest(made.frame, old, made.root), path)
        built._read.cache_clear()

    prepare_set(Hospital(rows), tmp_path / "m", check=False)
    assert built.training_prevalence(cfg, CHEXPERT14)["Edema"] == 0.5  # three of the six that are trained on
    age()
    again = r"'m' is unknown, an earlier version prepared it: prepare it again \(python -m .*prepare data=mine"
    with pytest.raises(ManifestError, match=again):
        build_reward(NUANCED, lambda: built.training_prevalence(cfg, CHEXPERT14))
    build_reward(HARD, lambda: built.training_prevalence(cfg, CHEXPERT14))
    constants = built.training_prevalence(cfg, CHEXPERT14, needed=False)
    assert constants["Edema"] == 0.5  # no sampler: the splits are the pool
    age(selection={"selection": "paper"})
    assert built.training_prevalence(cfg, CHEXPERT14, needed=False) == {}
    assert "without it there is no best_constant and no prior" in caplog.text
    prepare_set(Hospital(rows), tmp_path / "m", check=False)  # as the error says
    assert built.training_prevalence(cfg, CHEXPERT14)["Edema"] == 0.5
    prepare_set(Hospital(rows.assign(split="test")), tmp_path / "m", check=False, on_error="quarantine")
    with pytest.raises(ManifestError, match="'m' is unknown, it has no training image"):
        built.training_prevalence(cfg, CHEXPERT14)
