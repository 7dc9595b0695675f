"""Cohen's kappa between two labellings: against scikit-learn, by patient, and on real re-readings."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from chexreason.audit.agreement import agreement, match
from chexreason.data.manifest import Manifest, conform
from chexreason.data.sources.nih14 import NIH14Source
from chexreason.data.sources.table import TableSource
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.uncertainty import IGNORE, POSITIVES_ONLY
from chexreason.progress import silent
from chexreason.statistics.kappa import cohen_kappa

NAN = float("nan")
POLICIES = (IGNORE, IGNORE)


def labelled(edema, root="/data", paths=None, patients=None) -> Manifest:
    """A set whose only label is Edema, an image a patient unless told otherwise."""
    n = len(edema)
    frame = {
        "study_id": [f"x:{i}" for i in range(n)],
        "patient_id": patients or [f"p{i}" for i in range(n)],
        "dataset": "x",
        "split": "readers",
        "path": paths or [f"{i}.png" for i in range(n)],
        **dict.fromkeys(("view", "age", "sex", *CHEXPERT14.labels)),
        "Edema": edema,
    }
    return Manifest(conform(pd.DataFrame(frame)), {}, Path(root))


def edema(first: Manifest, second: Manifest, **options) -> dict:
    return agreement(first, second, POLICIES, **options)["labels"]["Edema"]


def test_the_cells_are_counted_where_both_judge():
    found = edema(labelled([1, 1, 0, 0, -1, NAN, 1]), labelled([1, 0, 1, 0, 1, 1, NAN]))
    assert {k: found[k] for k in ("n", "both", "first_only", "second_only", "neither", "agreement", "kappa")} == {
        "n": 4, "both": 1, "first_only": 1, "second_only": 1, "neither": 1, "agreement": 0.5, "kappa": 0.0,
    }  # fmt: skip


def test_each_side_follows_its_own_policy():
    first, second = labelled([1, 0, NAN, -1]), labelled([1, 0, 0, 0])
    assert agreement(first, second, (POSITIVES_ONLY, IGNORE))["labels"]["Edema"]["n"] == 4
    assert agreement(first, second, (IGNORE, IGNORE))["labels"]["Edema"]["n"] == 2
    assert list(agreement(first, second, POLICIES)["labels"]) == ["Edema"]  # what one side never judges is left out


def test_rows_are_matched_by_image_not_by_place():
    first = labelled([1, 0, 0], paths=["a.png", "b.png", "c.png"])
    second = labelled([0, 0, 1, 1], paths=["c.png", "x.png", "a.png", "y.png"])
    rows, others, how, ambiguous = match(first, second)
    assert (rows.tolist(), others.tolist(), how, ambiguous) == ([0, 2], [2, 0], "path", 0)
    assert edema(first, second)["agreement"] == 1.0


def test_copies_elsewhere_are_matched_by_file_name_unless_it_is_ambiguous():
    first = labelled([1, 0, 0, 1], paths=["a.v2.png", "b.png", "1/c.png", "2/c.png"])
    second = labelled([1, 0, 0], root="/copy", paths=["small/a.v2.jpg", "small/b.jpg", "small/c.jpg"])
    rows, others, how, ambiguous = match(first, second)
    assert (rows.tolist(), others.tolist(), how, ambiguous) == ([0, 1], [0, 1], "file name", 2)
    found = agreement(first, labelled([1], root="/copy", paths=["z.jpg"]), POLICIES)
    assert (found["images"], found["matched_by"], found["labels"]) == (0, "nothing", {})


def test_a_root_reached_through_a_link_is_the_same_root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    paths = ["1/c.png", "2/c.png"]  # names alone would be ambiguous
    found = match(labelled([1, 0], tmp_path / "real", paths), labelled([1, 0], tmp_path / "link", paths))
    assert (found[0].tolist(), found[2]) == ([0, 1], "path")


def test_images_of_one_patient_are_not_independent():
    """Ten copies of every image in its own patient narrow the interval; in the same patient they must not."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 60)
    b = np.where(rng.random(60) < 0.8, a, 1 - a)
    patients = [f"p{i}" for i in range(60) for _ in range(10)]
    once = edema(labelled(list(a)), labelled(list(b)))
    clustered = edema(labelled(list(a.repeat(10)), patients=patients), labelled(list(b.repeat(10))))
    apart = edema(labelled(list(a.repeat(10))), labelled(list(b.repeat(10))))
    width = {name: x["high"] - x["low"] for name, x in (("once", once), ("same", clustered), ("apart", apart))}
    assert once["kappa"] == pytest.approx(clustered["kappa"])
    assert width["same"] == pytest.approx(width["once"], rel=0.1)
    assert width["apart"] < 0.5 * width["once"]


def test_the_interval_is_the_bootstrap_by_patient():
    """The multinomial over kinds of patients against patients drawn one by one."""
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, (2, 120))
    patients = rng.integers(0, 50, 120)
    found = edema(labelled(list(a), patients=[f"p{i}" for i in patients]), labelled(list(b)), n_resamples=4000)
    cells = np.stack([a & b, a & ~b & 1, ~a & b & 1, ~a & ~b & 1], axis=1)
    totals = np.stack([cells[patients == p].sum(axis=0) for p in np.unique(patients)])
    draws = cohen_kappa(totals[rng.integers(0, len(totals), (4000, len(totals)))].sum(axis=1).reshape(-1, 2, 2))
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist(), abs=0.02)
    assert found["low"] < found["kappa"] < found["high"]
    assert found["kappa"] == pytest.approx(cohen_kappa_score(a, b))


@pytest.mark.parametrize(
    ("a", "b", "value"), [([0, 0, 0], [0, 0, 0], None), ([1, 0], [1, 0], 1.0), ([1, 0, 0, 0], [0, 0, 0, 0], 0.0)]
)
def test_what_resampling_cannot_tell_is_left_open(a, b, value):
    alone = edema(labelled(a, patients=["p"] * len(a)), labelled(b))
    assert (alone["kappa"], alone["low"], alone["high"]) == (value, None, None)
    assert edema(labelled(a * 20), labelled([0] * 20 * len(b)))["low"] is None  # a constant side has no interval
    assert edema(labelled(a), labelled(b))["low"] is None  # with so few, many resamples see one answer only


@pytest.mark.slow
def test_radiologists_disagree_with_text_mining_as_published(shared_data):
    """Airspace opacity, re-read: 175 of 263 images agree with the derived Lung Opacity."""
    agree = n = 0
    seen: set[str] = set()
    for name in ("nih", "nih_lowres128"):
        root = shared_data / name
        mined = NIH14Source("mined", root, split="patient_hash")
        read = TableSource(
            "read", root / "labels.csv", split="readers", label_columns={"Lung Opacity": "expert4_airspace_opacity"}
        )
        first, second = (Manifest(conform(s.prepare(root, silent)), {}, s.image_root) for s in (mined, read))
        new = ~second.frame["path"].isin(seen)
        seen |= set(second.frame["path"][second.frame["Lung Opacity"].notna()])
        found = agreement(first, Manifest(second.frame[new].reset_index(drop=True), {}, second.root), POLICIES)
        assert list(found["labels"]) == ["Lung Opacity"]
        cells = found["labels"]["Lung Opacity"]
        agree, n = agree + cells["both"] + cells["neither"], n + cells["n"]
    assert (agree, n) == (175, 263)
