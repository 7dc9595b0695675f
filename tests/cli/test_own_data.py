"""A data config of one's own: what it may leave out, what is asked for by name, and a table without any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from PIL import Image

from chexreason.build.data_config import complete_data
from chexreason.cli.prepare import prepare, take_table
from chexreason.confdir import confdir
from chexreason.data.manifest import read_manifest
from chexreason.statistics.predictions import read_predictions
from tests.data.conftest import jpeg
from tests.support.configs import composed
from tests.support.hospitals import padchest_tree, vindr_tree

MINE = """
name: mine
data_root: ROOT
sets:
  away:
    policy: ignore
    source:
      _target_: chexreason.data.sources.table.TableSource
      csv: ${data.data_root}/t.csv
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A csv of six patients with its films."""
    rows = ["film,patient,Pneumonia,Edema,Fracture,Split"]
    for i in range(6):
        jpeg(tmp_path / "films" / f"{i}.jpg")
        rows.append(f"films/{i}.jpg,{i},{i % 2},{(i + 1) % 2},{i % 2 or ''},train")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def own(folder: Path, text: str = MINE):
    """The config that ``prepare`` gets with ``text`` as conf/data/mine.yaml."""
    cfg = composed("prepare", f"paths.out={folder}/out")
    OmegaConf.set_struct(cfg, False)
    cfg.data = OmegaConf.create(text.replace("ROOT", str(folder)))
    return cfg


@pytest.mark.parametrize("words", [
    ("data=paper", "~data.sets.chexpert", "~data.sets.nih", "data.test=[mimic]", "data.credentialed=[mimic]"),
    ("data=phantom", "~data.sets.phantom_b", "data.test=[phantom_a]", "data.val=[phantom_a]"),
])  # fmt: skip
def test_a_set_of_a_shipped_config_is_left_out_with_its_keys(words):
    cfg = composed("prepare", *words)
    complete_data(cfg)
    with open_dict(cfg):
        cfg.data.chexpert_rot = "x"
    with pytest.raises(ValueError, match=r"data\.chexpert_rot is no setting"):
        complete_data(cfg)


def test_what_has_a_default_may_be_left_out(folder):
    text = MINE + "      path_column: film\n      patient_column: patient\n      vendor: st_elsewhere\n"
    cfg = own(folder, text)
    assert prepare(cfg)["away"].split_counts() == {"test": 6}
    data = OmegaConf.to_container(cfg.data, resolve=True)
    assert (data["home"], data["val"], data["test"], data["attributions"]) == ("away", ["away"], ["away"], [])
    page = (folder / "out/mine/audit.html").read_text()
    assert "away: no negative image of Fracture: policy &#39;ignore&#39; leaves blanks out." in page
    assert (folder / "out/data/mine/away").stat().st_mode & 0o077 == 0  # not public
    cfg = own(folder, text + "attributions: [LICENCE.md]\n")
    with pytest.raises(ValueError, match=r"no file LICENCE\.md; write the licence there"):
        prepare(cfg)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: mine", "", "data.name is missing"),
        ("name", "attribution: [x]\nname", "data.attribution is no setting: did you mean attributions"),
        ("name", "home: awy\nname", "data.home: there is no set 'awy': did you mean away"),
        ("name", "test: [a, away]\nname", "data.test: there is no set 'a'"),
        ("name", "allow_overlap: [[away, hom]]\nname", "data.allow_overlap: there is no set 'hom'"),
        ("policy: ignore", "", "data.sets.away.policy is missing: what does a blank mean"),
        ("policy: ignore", "policy: ignored", "data.sets.away: unknown label policy 'ignored'; known: positives_only"),
        ("policy", "publik: true\n    policy", "data.sets.away.publik is no setting: did you mean public"),
        ("policy", "public: sure\n    policy", "data.sets.away.public='sure': say true or false"),
        ("policy", "label_list: nih8\n    policy", "data.sets.away: unknown label set 'nih8'"),
        ("csv:", "cvs:", "source.cvs is no setting: did you mean csv"),
        ("csv:", "cvs:", "source.csv is missing: chexreason.data.sources.table.TableSource needs it"),
        ("TableSource", "TablSource", "there is no chexreason.data.sources.table.TablSource: did you mean chex"),
        ("source:", "sorce:", "data.sets.away.source is missing: say _target_"),
        ("sets:", "set:", "data.sets: say the source and the policy of at least one set"),
    ],
)
def test_every_key_that_is_missing_or_misspelt_is_named_before_any_work(folder, old, new, told):
    with pytest.raises(ValueError, match="data") as caught:
        prepare(own(folder, MINE.replace(old, new, 1)))
    assert told in str(caught.value)
    assert not (folder / "out").exists()


def prepared(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chexreason.cli.prepare", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.slow
def test_a_table_needs_no_config_and_prints_the_one_to_keep(folder):
    words = ("table=t.csv", "root=.", "name=mine", "vendor=st_elsewhere", "path_column=film", "patient_column=patient")
    done = prepared(folder, *words)
    assert done.returncode == 0, done.stderr
    said, _, kept = done.stdout.partition("save the lines below as conf/data/mine.yaml\n")
    assert "column 'Split' is not read; say split_column=Split" in said
    assert "public: false" in kept
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "conf" / "data" / "mine.yaml").write_text(kept)
    again = prepared(folder, f"--config-dir={folder}/conf", "data=mine", "paths.out=other")
    assert again.returncode == 0, again.stderr
    one, other = (read_manifest(folder / out / "data/mine/mine/manifest.parquet") for out in ("out", "other"))
    assert one.frame.equals(other.frame)
    assert (one.provenance, one.root) == (other.provenance, other.root)
    assert (one.provenance["public"], one.split_counts()) == (False, {"test": 6})
    assert "leave data=phantom out, or table=" in prepared(folder, "table=t.csv", "data=phantom").stderr
    for words, told in (
        (("table=t.csv", "name=paper"), "there is a data config 'paper': say data=paper"),
        (("split=val",), "split belongs to table="),
    ):
        with pytest.raises(ValueError, match=told):
            take_table(composed("prepare", *words))


@pytest.mark.slow
def test_a_folder_of_films_needs_no_config_and_is_answered_without_labels(folder):
    for film in (folder / "films").iterdir():
        Image.new("L", (48, 48), int(film.stem) * 40).save(film)
    (folder / "films" / "broken.png").write_bytes(b"no picture")
    done = prepared(folder, "images=films", "name=mine")
    assert done.returncode == 0, done.stderr
    said, _, kept = done.stdout.partition("save the lines below as conf/data/mine.yaml\n")
    assert "1 of 7 images moved to" in said
    assert "public: false" in kept
    assert (folder / "out/data/mine/mine").stat().st_mode & 0o077 == 0
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "conf" / "data" / "mine.yaml").write_text(kept)
    words = [f"--config-dir={folder}/conf", "data=mine", "name=x", "arm=base", "max_new_tokens=8"]
    command = [sys.executable, "-m", "chexreason.cli.evaluate", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "'mine' has no labels: answers to it are kept" in done.stdout
    found = read_predictions(folder / "out/x/eval/base/predictions.jsonl")
    assert (len(found), {p.labelled for p in found}) == (6, {()})
    assert (folder / "out/x/eval/base/metrics.json").read_text().strip() == "{}"
    with pytest.raises(ValueError, match=r"images= is a folder of films without labels: split belongs to a csv"):
        take_table(composed("prepare", "images=films", "split=val"))
    stop = prepared(folder, "images=films", "name=other", "on_error=stop")
    assert "1 of 7 images of 'other' cannot be read" in stop.stderr


@pytest.mark.parametrize(("out", "others", "away"), [("padchest", 6, 5), ("vindr", 5, 6)])
def test_one_hospital_is_left_out(tmp_path, monkeypatch, out, others, away):
    monkeypatch.setenv("PADCHEST_ROOT", str(padchest_tree(tmp_path / "pc")))
    monkeypatch.setenv("VINDR_ROOT", str(vindr_tree(tmp_path / "vin")))
    with initialize_config_dir(confdir(), version_base="1.3"):
        words = ("data=leave_one_out", "~data.hospitals.nih", f"data.left_out={out}", f"paths.out={tmp_path}/out")
        cfg = compose("prepare", list(words))
    made = prepare(cfg)
    assert {name: len(manifest.frame) for name, manifest in made.items()} == {"others": others, "away": away}
    assert (cfg.data.home, list(cfg.data.test)) == ("others", ["others", "away"])
    assert not set(made["others"].frame["patient_id"]) & set(made["away"].frame["patient_id"])
    cfg.data.sets.others.policy = "positives_only"
    with pytest.raises(ValueError, match="of the joined set 'others' reads blanks as absent"):
        complete_data(cfg)
    cfg.data.left_out = "nih"
    cfg.data.sets.others.policy = "zeros"
    with pytest.raises(ValueError, match=r"data\.hospitals\.nih"):
        prepare(cfg)
