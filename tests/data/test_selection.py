"""The paper's sets: sizes, shares, patients, views, exams, and what it says when the pool does not do."""

import json

import numpy as np
import pandas as pd
import pytest

from chexreason.data.manifest import ManifestError, conform
from chexreason.data.prevalence import prevalence_png
from chexreason.data.selection import PaperSelection, Selected
from chexreason.labels.catalog import CHEXPERT14
from tests.support.manifests import manifest_rows

LABELS = list(CHEXPERT14.labels)
SMALL = {"sft": 80, "rl": 40, "val": 30}


def pool(n: int = 900, **columns) -> pd.DataFrame:
    """``n`` images of ``n / 3`` patients, two images an exam; a tenth of the patients are the vendor's test."""
    rng = np.random.default_rng(0)
    marks = (rng.random((n // 2, 14)) < 0.12).astype(float).repeat(2, axis=0)  # [N, 14]
    marks[marks == 0] = np.nan
    base = {
        "patient_id": [f"mimic:p{i // 3 // 2 * 2}" for i in range(n)],
        "split": ["test" if i // 30 % 10 == 9 else "train" for i in range(n)],
        "view": [("AP", "PA", "LATERAL")[i % 3] for i in range(n)],
        "exam_id": [f"mimic:s{i // 2}" for i in range(n)],
        **{label: marks[:, i] for i, label in enumerate(LABELS)},
    }
    return conform(manifest_rows("m", n, **(base | columns)))


def select(frame: pd.DataFrame, **options) -> Selected:
    return PaperSelection(**(SMALL | options)).apply(frame, "m")


def test_sizes_shares_and_patients():
    frame = pool()
    before = frame.copy(deep=True)
    found = select(frame)
    kept = conform(found.frame)  # no patient in two splits
    assert kept["split"].value_counts().to_dict() == SMALL
    assert set(kept["view"]) == {"AP", "PA"}
    assert not kept["exam_id"].duplicated().any()
    for split in ("sft", "rl"):
        rows = kept[kept["split"] == split]
        assert ((rows[LABELS] == 1.0).mean() >= 0.05).all()
        assert (rows[LABELS] == 1.0).any(axis=1).all()
    assert kept["study_id"].isin(frame["study_id"][frame["split"] == "train"]).all()
    assert found.report["warnings"] == []
    pd.testing.assert_frame_equal(frame, before)


def test_the_result_does_not_depend_on_the_order_of_the_rows():
    frame = pool()
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    drawn = [select(rows, seed=seed).frame for rows, seed in ((frame, 4), (shuffled, 4), (frame, 5))]
    one, two, other = (dict(zip(rows["study_id"], rows["split"], strict=True)) for rows in drawn)
    assert one == two
    assert set(one) != set(other)


def test_the_vendors_test_rows_are_kept_only_where_asked():
    frame = pool()
    found = select(frame, test_split="test").frame
    theirs = frame[(frame["split"] == "test") & frame["view"].isin(["AP", "PA"])]
    assert found[found["split"] == "test"]["study_id"].tolist() == theirs["study_id"].tolist()


def test_only_marks_of_one_count():
    frame = pool()
    frame["Fracture"] = frame["Fracture"].where(frame["Fracture"].isna(), -1.0)
    report = select(frame).report
    assert report["pool"]["positives"]["Fracture"] == 0
    assert report["warnings"] == ["0.0% of every sample: no image of the pool is positive for Fracture"]


def test_a_label_under_its_share_is_named_with_the_share_it_reached():
    frame = pool()
    rare = frame.index[(frame["Fracture"] == 1.0) & (frame["split"] == "train") & (frame["view"] == "AP")][:3]
    frame.loc[~frame.index.isin(rare), "Fracture"] = np.nan
    report = select(frame, val=0).report
    n = report["splits"]["sft"]["positives"]["Fracture"]
    have = report["pool"]["positives"]["Fracture"]
    assert 0 < n == have
    why = f"under the 5.0% aimed at: there are {have} to draw from"
    assert report["warnings"] == [
        f"sft: Fracture is in {n / 80:.1%} of the images ({n} of 80), {why}",
        f"rl: Fracture is in 0.0% of the images (0 of 40), {why}, and sft comes first",
    ]


@pytest.mark.parametrize("mark", [0.0, np.nan])
def test_images_without_a_positive_label_are_validated_on_but_not_trained_on_and_unlabelled_ones_are_neither(mark):
    frame = pool()
    frame.loc[frame.index % 2 == 0, LABELS] = mark
    found = select(frame.assign(exam_id=""), sft=50, rl=20, val=60 if np.isnan(mark) else 100).frame
    without = ~(found[LABELS] == 1.0).any(axis=1)
    assert set(found["split"][without]) <= {"val"}
    assert (found["split"][found[LABELS].eq(0.0).all(axis=1)] == "val").any() == (mark == 0.0)
    assert found[LABELS].notna().any(axis=1).all()


def test_validation_keeps_the_prevalence_of_the_pool_even_where_little_is_left_over():
    rng = np.random.default_rng(1)
    rare = np.where(rng.random(900) < 0.1, 1.0, 0.0)
    frame = pool(patient_id=[f"mimic:p{i}" for i in range(900)], split="train", exam_id="").assign(
        **dict.fromkeys(LABELS, 0.0) | {"No Finding": 1.0 - rare, "Edema": rare}
    )
    found = select(frame, sft=100, rl=40, val=400, views=None, min_share=0.3).frame
    share = (found["Edema"][found["split"] == "val"] == 1.0).mean()
    assert 0.06 < share < 0.15
    assert (found["Edema"][found["split"] == "sft"] == 1.0).mean() >= 0.3


@pytest.mark.slow
def test_the_report_survives_json_and_is_drawn():
    report = select(pool(), test_split="test").report
    assert json.loads(json.dumps(report)) == report
    assert set(report["splits"]) == {"sft", "rl", "val", "test"}
    assert prevalence_png(report)[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ["AP", "PAA"]}, r"'m' has no image in view PAA; its views: AP 300, PA 300, LATERAL 300"),
        ({"pool_splits": ["training"]}, r"no image in split training to select; its splits: train \d+, test \d+"),
        ({"test_split": "tests"}, "no image in split tests"),
        ({"sft": 5000}, r"'m': 5,000 sft and 40 rl are asked for; the pool has \d+ images with a positive label, of"),
        ({"val": 5000}, r"'m': val=5,000 images are asked for; the pool has \d+ of \d+ patients"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_pool_cannot_give_is_refused(options, message):
    with pytest.raises(ManifestError, match=message):
        select(pool(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sft": -1}, "sft=-1"),
        ({"sft": 0, "rl": 0}, "nothing to train on"),
        ({"min_share": 5}, r"min_share=5 is a share of the images, 0\.\.1"),
        ({"views": "AP"}, "views='AP' is not a list"),
        ({"pool_splits": []}, r"pool_splits=\[\] is not a list"),
        ({"test_split": "train"}, "test_split=train is also in pool_splits"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        PaperSelection(**options)
