"""The leakage guard: what it finds, what it refuses, and the one way around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from chexreason.build.data import check_training
from chexreason.build.training import build_data
from chexreason.data.check import inspect_images
from chexreason.data.leakage import RADIUS, LeakageError, check_leaks, find_leaks
from chexreason.data.manifest import Manifest, ManifestError, write_manifest
from chexreason.data.prepare import MANIFEST_NAME
from chexreason.types import Sample
from tests.support.manifests import manifest_rows

ZERO = "0" * 64
SIDES = ("sft", "readers", "train")  # the last two belong to neither side


def rows(*studies: tuple[str, str, str, str, str]) -> pd.DataFrame:
    """Manifest rows of (study, patient, split, sha256, phash)."""
    return pd.DataFrame(list(studies), columns=["study_id", "patient_id", "split", "sha256", "phash"])


def bits(n: int) -> str:
    """A hash that differs from ZERO in ``n`` bits."""
    return f"{2**n - 1:064x}"


CLEAN = {
    "home": rows(("a", "p1", "sft", "x", ZERO), ("b", "p1", "rl", "x", ZERO), ("c", "p2", "test", "y", bits(200))),
    "away": rows(("d", "p3", "test", "z", bits(100)), ("e", "p3", "test", "z", bits(100))),
}
PATIENTS_CROSS = {
    "home": rows(("a", "p1", "sft", "", ""), ("b", "p1", "rl", "", ""), ("c", "p2", "val", "", "")),
    "away": rows(("d", "p1", "test", "", ""), ("e", "p1", "test", "", ""), ("f", "p2", "test", "", "")),
}
FILMS_CROSS = {
    "home": rows(("a", "p1", "sft", "x", ZERO), ("b", "p2", "sft", "y", bits(100))),
    "away": rows(("c", "p3", "val", "x", ZERO), ("d", "p4", "val", "z", bits(100 + RADIUS))),
}
JUST_APART = {**FILMS_CROSS, "away": FILMS_CROSS["away"].assign(phash=["", bits(101 + RADIUS)])}
WITHIN_ONE = {"one": rows(("a", "p1", "rl", "x", ZERO), ("b", "p2", "test", "y", bits(1)))}
ON_NO_SIDE = {"one": rows(*((study, "p1", split, "x", ZERO) for study, split in zip("abc", SIDES, strict=True)))}
WITHOUT_HASHES = {
    "home": rows(("a", "p1", "sft", "x", ZERO)).drop(columns=["sha256", "phash"]),
    "away": rows(("b", "p1", "test", "x", ZERO), ("c", "p2", "test", "", "")),
}


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ({}, []),
        (CLEAN, []),
        (ON_NO_SIDE, []),
        # of p2: a checkpoint chosen on test patients
        (PATIENTS_CROSS, [("patient", ("train", "test"), 1), ("patient", ("val", "test"), 1)]),
        (FILMS_CROSS, [("image", ("train", "val"), 1), ("picture", ("train", "val"), 1)]),
        (JUST_APART, [("image", ("train", "val"), 1)]),
        (WITHIN_ONE, [("picture", ("train", "test"), 1)]),
        (WITHOUT_HASHES, [("patient", ("train", "test"), 1)]),
    ],
)
def test_what_crosses_is_found_and_nothing_else(frames, expected):
    leaks = find_leaks(frames)
    assert [(leak.kind, leak.sides, leak.count) for leak in leaks] == expected
    names = list(frames)
    assert {(leak.one, leak.other) for leak in leaks} <= {(name, other) for name in names[:1] for other in names[-1:]}
    check_leaks(frames, [[names[0], names[-1]]] if expected else [])


def test_the_refusal_names_counts_examples_and_the_way_out():
    home = rows(*((f"h{i}", f"p{i}", "sft", f"x{i}", "") for i in range(9)))
    away = rows(*((f"w{i}", f"p{i}", "test", f"x{i}", "") for i in range(9)))
    with pytest.raises(LeakageError) as caught:
        check_leaks({"home": home, "away": away})
    message = str(caught.value)
    assert "home (train) and away (test): 9 of the same patients: p0, p1, p2, ..." in message
    assert "9 of the same image files: h0 = w0, h1 = w1, h2 = w2, ..." in message
    assert "data.allow_overlap=[[away,home]]" in message
    assert isinstance(caught.value, ManifestError)


def test_only_the_named_pair_is_let_through():
    splits = {"home": "sft", "away": "test", "third": "test"}
    frames = {name: rows((f"{name}1", "p1", split, "", "")) for name, split in splits.items()}
    with pytest.raises(LeakageError, match="third") as caught:
        check_leaks(frames, [["away", "home"]])
    assert "away" not in str(caught.value)
    accepted = check_leaks(frames, [["away", "home"], ["home", "third"]])
    assert all(leak.allowed for leak in accepted)
    assert len(accepted) == 2


@pytest.mark.parametrize("pair", ["home", ["home"], ["home", "elsewhere"]])
def test_what_is_no_pair_of_sets_is_refused(pair):
    with pytest.raises(ValueError, match=r"allow_overlap has .*home.*; name pairs of these sets: home, away"):
        check_leaks({"home": rows(), "away": rows()}, [pair])


PATIENTS = st.lists(st.tuples(st.sampled_from(["sft", "rl", "val", "test"]), st.integers(0, 9)), max_size=12)


@settings(max_examples=25, deadline=None)
@given(PATIENTS, PATIENTS)
def test_every_crossing_patient_is_found(one, two):
    frames, where = {}, {}
    for name, drawn in (("one", one), ("two", two)):
        frames[name] = rows(*((f"{name}{i}", f"p{p}", split, "", "") for i, (split, p) in enumerate(drawn)))
        for split, patient in drawn:
            where.setdefault(patient, set()).add("train" if split in ("sft", "rl") else split)
    assert bool(find_leaks(frames)) == any(len(sides) > 1 for sides in where.values())


@pytest.mark.slow
def test_real_sets_that_share_patients_and_films_are_refused(shared_data):
    tables = {name: pd.read_csv(shared_data / name / "labels.csv") for name in ("nih", "nih_lowres128")}
    both = set.intersection(*(set(table["image_index"]) for table in tables.values()))
    frames = {}
    for (name, table), split in zip(tables.items(), ("test", "sft"), strict=True):
        table = table[table["image_index"].isin(both)][:24]
        facts = inspect_images([shared_data / name / path for path in table["path"]])
        frames[name] = rows(
            *(
                (Path(row.path).stem, f"nih14:{row.patient_id}", split, fact.sha256, fact.phash)
                for row, fact in zip(table.itertuples(), facts, strict=True)
            )
        )
    kinds = {leak.kind: leak.count for leak in find_leaks(frames)}
    assert kinds["picture"] == 24  # the same films at 320 and at 128 pixels: no byte in common
    assert "image" not in kinds
    with pytest.raises(LeakageError, match="near-identical pictures"):
        check_leaks(frames)
    check_leaks(frames, [["nih", "nih_lowres128"]])


@pytest.fixture
def prepared(tmp_path, studies):
    """A data config of two prepared sets, and its training samples; ``away`` has a patient of ``home``'s training."""
    for name, splits, patients in (("home", ["sft", "sft", "test"], "123"), ("away", ["test", "test"], "27")):
        frame = manifest_rows(name, len(splits), split=splits, patient_id=list(patients))
        write_manifest(Manifest(frame, {}, tmp_path), tmp_path / name / MANIFEST_NAME)
    sets = {"home": {}, "away": {}, "later": {}}
    train = [Sample(replace(studies[i], study_id=f"home:{i}"), "x") for i in range(2)]
    return OmegaConf.create({"data": {"name": "d", "folder": str(tmp_path), "sets": sets}}), train


def test_training_stops_on_a_patient_of_a_test_set(prepared):
    cfg, train = prepared
    with pytest.raises(LeakageError, match=r"home \(train\) and away \(test\): 1 of the same patients: 2\n"):
        check_training(cfg, train)
    check_training(cfg, train[:1])  # what is not trained on does not count
    cfg.data.allow_overlap = [["away", "home"], ["home", "later"]]
    check_training(cfg, train)


@pytest.mark.parametrize("split", ["test", "val", "readers", "train"])
def test_training_takes_training_splits_only(split):
    cfg = OmegaConf.create({"phase": {"split": split}})
    with pytest.raises(ValueError, match=rf"phase\.split={split} is not for training; train on one of: sft, rl"):
        build_data(cfg, None, None, None)
