"""The leakage guard: what it finds, what it refuses, and the one way around it."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from chexreason.build.data import check_training
from chexreason.build.training import build_data
from chexreason.cli.prepare import prepare
from chexreason.data.check import inspect_images
from chexreason.data.leakage import RADIUS, WARNING_RADIUS, LeakageError, check_leaks, find_leaks
from chexreason.data.manifest import Manifest, ManifestError, write_manifest
from chexreason.data.prepare import MANIFEST_NAME
from chexreason.types import Sample
from tests.support.configs import composed
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
# as sources write them now, as manifests of earlier versions hold them, and as a source of the user's own may
ONE_PATIENT = [
    ("nih14:13", "nih14:00000013"),
    ("NIH ChestX-ray14:'13", "nih14:00000013_002.png"),
    ("mimic:10000032", "MIMIC-CXR-JPG:p10000032"),
    ("chexpert:patient00001", "CheXpert:1"),
    ("ward:0007", "ward:7"),
    ("ward:\uff17", "Ward: 7 "),
    ("ward:P-007", "ward:p-7"),
    ("St_Mary:7", "stmary:7"),
]
TWO_PATIENTS = [("a:7", "b:7"), ("ward:70", "ward:7"), ("ward:1-11", "ward:11-1"), ("nih14:13", "chexpert:13")]


def patients_of(one: str, other: str) -> dict[str, pd.DataFrame]:
    """Two sets without pictures, ``one`` patient trained on and the ``other`` tested on."""
    return {"home": rows(("a", one, "sft", "", "")), "away": rows(("b", other, "test", "", ""))}


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
        *((patients_of(*pair), [("patient", ("train", "test"), 1)]) for pair in ONE_PATIENT),
        *((patients_of(*pair), []) for pair in TWO_PATIENTS),
    ],
)
def test_what_crosses_is_found_and_nothing_else(frames, expected):
    leaks = find_leaks(frames)
    assert [(leak.kind, leak.sides, leak.count) for leak in leaks] == expected
    names = list(frames)
    assert {(leak.one, leak.other) for leak in leaks} <= {(name, other) for name in names[:1] for other in names[-1:]}
    check_leaks(find_leaks(frames, [[names[0], names[-1]]] if expected else []))


def test_the_refusal_names_counts_examples_and_the_way_out():
    home = rows(*((f"h{i}", f"p{i}", "sft", f"x{i}", "") for i in range(9)))
    away = rows(*((f"w{i}", f"p{i}", "test", f"x{i}", "") for i in range(9)))
    with pytest.raises(LeakageError) as caught:
        check_leaks(find_leaks({"home": home, "away": away}))
    message = str(caught.value)
    assert "home (train) and away (test): 9 of the same patients: p0, p1, p2, ..." in message
    assert "9 of the same image files: h0 = w0, h1 = w1, h2 = w2, ..." in message
    accepted = composed("prepare", *re.findall(r"naming it: (\S+)", message)).data.allow_overlap
    assert accepted == [["away", "home"]]
    with pytest.raises(
        LeakageError, match=r"=\[\[away,home\],\[away,later\],\[home,later\]\]$"
    ):  # what was accepted is not lost
        check_leaks(find_leaks({"home": home, "away": away, "later": home.assign(split="val")}, accepted))
    assert isinstance(caught.value, ManifestError)


def test_only_the_named_pair_is_let_through():
    splits = {"home": "sft", "away": "test", "third": "test"}
    frames = {name: rows((f"{name}1", "p1", split, "", "")) for name, split in splits.items()}
    with pytest.raises(LeakageError, match="third") as caught:
        check_leaks(find_leaks(frames, [["away", "home"]]))
    assert "away" not in str(caught.value).partition("take a set out")[0]
    accepted = find_leaks(frames, [["away", "home"], ["home", "third"]])
    check_leaks(accepted)
    assert all(leak.allowed for leak in accepted)
    assert len(accepted) == 2


def test_pictures_beyond_the_refusal_radius_are_listed_nearest_first_and_stop_nothing():
    near = {"c": 1 + WARNING_RADIUS, "d": WARNING_RADIUS, "e": 1 + RADIUS, "p1": WARNING_RADIUS}
    away = rows(*((study, "p1" if study == "p1" else study, "test", study, bits(n)) for study, n in near.items()))
    frames = {"home": rows(("a", "p1", "sft", "x", ZERO)), "away": away}
    alike = next(leak for leak in find_leaks(frames, vague=[]) if leak.kind == "alike")
    assert (alike.count, alike.pairs) == (2, (("a", "e"), ("a", "d")))  # of patient p1 another leak tells
    check_leaks([alike])
    assert "alike" not in {leak.kind for leak in find_leaks(frames)}
    many = {**frames, "away": rows(*((f"s{i}", f"q{i}", "test", f"{i}", bits(1 + RADIUS)) for i in range(99)))}
    (alike,) = find_leaks(many, vague=[])
    assert (alike.count, len(alike.pairs)) == (99, 12)


@pytest.mark.parametrize(
    ("vendors", "kinds"),
    [
        ((None, None), {"unlinked"}),
        ((None, "st_anna"), {"unlinked"}),
        (("St. Anna", "st_anna"), {"patient"}),
        (("st_anna", "st_olga"), set()),
    ],
)
def test_two_csv_of_one_hospital_are_linked_by_their_vendor_and_suspected_without(tmp_path, caplog, vendors, kinds):
    """The whole of ``prepare``: each way out that it prints is one of the next cases."""
    sets = {}
    for name, vendor, split, patient in zip(("one", "two"), vendors, ("sft", "test"), ("0007", "7"), strict=True):
        (tmp_path / f"{name}.csv").write_text(f"path,patient_id,Edema\n{name}.png,{patient},1\n")
        pixels = np.random.default_rng(len(sets)).integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        source = {"_target_": "chexreason.data.sources.table.TableSource", "name": name, "vendor": vendor}
        sets[name] = {"policy": "ignore", "source": source | {"csv": str(tmp_path / f"{name}.csv"), "split": split}}
    data = {"name": "d", "folder": str(tmp_path / "data"), "home": "one", "attributions": [], "sets": sets}
    done = {
        "name": "d",
        "paths": {"out": str(tmp_path / "out")},
        "on_error": "stop",
        "workers": 1,
        "allow_export": None,
    }
    cfg = OmegaConf.create({"data": data, "check": True, "audit": True, **done})
    with pytest.raises(LeakageError, match=r"0007 = \w+:7") if kinds == {"patient"} else nullcontext():
        prepare(cfg)
    audit = json.loads((tmp_path / "out/d/audit.json").read_text())
    assert {leak["kind"] for leak in audit["leaks"]} == kinds
    warned = [worry["text"] for worry in audit["worries"] if worry["text"].startswith("Perhaps a leak: one (train)")]
    assert len(warned) == ("unlinked" in kinds)
    assert ("set ++data.sets.SET.source.vendor, one name" in caplog.text) == ("unlinked" in kinds)


def test_sets_with_a_patient_in_common_for_certain_raise_no_suspicion():
    home, away = rows(("a", "x:7", "sft", "", ""), ("b", "y:8", "sft", "", "")), rows(("c", "z:8", "test", "", ""))
    known = pd.concat([away, rows(("d", "x:7", "test", "", ""))])
    kinds = [[leak.kind for leak in find_leaks({"home": home, "away": of}, vague=["home"])] for of in (away, known)]
    assert kinds == [["unlinked"], ["patient"]]


@pytest.mark.parametrize("pair", ["home", ["home"], ["home", "elsewhere"]])
def test_what_is_no_pair_of_sets_is_refused(pair):
    with pytest.raises(ValueError, match=r"allow_overlap has .*home.*; name pairs of these sets: home, away"):
        find_leaks({"home": rows(), "away": rows()}, [pair])


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
        check_leaks(find_leaks(frames))
    check_leaks(find_leaks(frames, [["nih", "nih_lowres128"]]))


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
