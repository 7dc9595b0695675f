"""NIH ChestX-ray14: the vendor's csv, any usual folder layout, and splits by patient."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexreason.data.manifest import conform
from chexreason.data.sources.nih14 import NIH14Source, _years
from chexreason.labels.catalog import CHEXPERT14
from chexreason.progress import silent

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
DATA = Path(os.environ.get("CHEXREASON_DATA", Path(__file__).parents[3] / "shared" / "data"))


def vendor(folder: Path, n: int = 60, layout: str = "images", suffix: str = "png", csv: str = "") -> Path:
    """A folder as the vendor's: ``n`` patients with two images each, pixels left out (sources read none)."""
    names = [f"{patient:08d}_{k:03d}.png" for patient in range(1, n + 1) for k in range(2)]
    lines = [f"{name},Effusion|Mass,0,{int(name[:8])},58,M,PA,2500,2048,0.1,0.1" for name in names]
    (folder / (csv or "Data_Entry_2017_v2020.csv")).write_text("\n".join([HEADER, *lines]) + "\n")
    for i, name in enumerate(names):
        path = folder / layout.format(i % 2 + 1) / Path(name).with_suffix(f".{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "train_val_list.txt").write_text("\n".join(name for name in names if int(name[:8]) > 12))
    (folder / "test_list.txt").write_text("\n".join(name for name in names if int(name[:8]) <= 12))
    return folder


def frame(folder: Path, **options) -> pd.DataFrame:
    source = NIH14Source("nih", folder, **options)
    return conform(source.prepare(folder / "unused", silent))


@pytest.mark.parametrize(
    ("layout", "suffix"), [("images", "png"), ("images", "jpg"), ("images_{:03d}/images", "png"), (".", "jpeg")]
)
def test_images_are_found_in_any_layout(tmp_path, layout, suffix):
    rows = frame(vendor(tmp_path, layout=layout, suffix=suffix))
    assert len(rows) == 120
    assert all((tmp_path / path).is_file() for path in rows["path"])
    assert rows["path"].str.endswith("." + suffix).all()
    assert [Path(path).stem for path in rows["path"]] == [study.split(":")[1] for study in rows["study_id"]]


def test_rows_carry_the_vendor_s_facts(tmp_path):
    row = frame(vendor(tmp_path)).iloc[0]
    assert (row["study_id"], row["patient_id"], row["dataset"]) == ("nih:00000001_000", "nih14:1", "nih")
    assert (row["view"], row["age"], row["sex"]) == ("PA", 58, "M")
    assert {label for label in CHEXPERT14.labels if row[label] == 1} == {
        "Lung Lesion",
        "Lung Opacity",
        "Pleural Effusion",
    }
    assert np.isnan(row["Fracture"])


@pytest.mark.parametrize("split", ["official", "patient_hash"])
def test_no_patient_crosses_and_every_split_is_filled(tmp_path, split):
    rows = frame(vendor(tmp_path), split=split)
    assert rows.groupby("patient_id")["split"].nunique().eq(1).all()
    assert set(rows["split"]) == {"sft", "rl", "val", "test"}
    if split == "official":
        assert set(rows["patient_id"][rows["split"] == "test"]) == {f"nih14:{i}" for i in range(1, 13)}


def test_the_share_moves_training_patients_only(tmp_path):
    vendor(tmp_path)
    all_sft, all_rl = frame(tmp_path, sft_share=1.0), frame(tmp_path, sft_share=0.0)
    assert set(all_sft["split"]) == {"sft", "val", "test"}
    assert (all_sft["split"].replace("sft", "rl") == all_rl["split"]).all()


def test_a_draw_is_seeded_and_counted(tmp_path):
    vendor(tmp_path)
    drawn = [frame(tmp_path, n_per_split={"test": 5}, seed=seed) for seed in (0, 0, 1)]
    ids = [set(rows["study_id"][rows["split"] == "test"]) for rows in drawn]
    assert ids[0] == ids[1] != ids[2]
    assert [len(i) for i in ids] == [5, 5, 5]
    assert (drawn[0]["split"] == "sft").sum() == (frame(tmp_path)["split"] == "sft").sum()
    with pytest.raises(ValueError, match="asks for 999 studies of 'test'; 'nih' has 24"):
        frame(tmp_path, n_per_split={"test": 999})


def test_missing_images_stop_or_are_left_out(tmp_path, caplog):
    vendor(tmp_path)
    (tmp_path / "images" / "00000002_000.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 120 images.*00000002_000\.png.*allow_missing=true"):
        frame(tmp_path)
    assert len(frame(tmp_path, allow_missing=True)) == 119
    assert "1 of 120 images are missing" in caplog.text


def test_provenance_tells_preparations_apart(tmp_path):
    vendor(tmp_path)
    first = NIH14Source("nih", tmp_path).provenance
    assert first == NIH14Source("nih", tmp_path).provenance
    assert NIH14Source("nih", tmp_path, sft_share=0.5).provenance != first
    with (tmp_path / "test_list.txt").open("a") as file:
        file.write("\n")
    assert NIH14Source("nih", tmp_path).provenance != first


def test_wrong_folders_and_files_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no Data_Entry_2017_v2020\.csv or Data_Entry_2017\.csv in"):
        frame(tmp_path)
    vendor(tmp_path, csv="Data_Entry_2017.csv")
    assert len(frame(tmp_path)) == 120
    (tmp_path / "test_list.txt").write_text("")
    with pytest.raises(ValueError, match="24 images are in neither official list"):
        frame(tmp_path)
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match="set split=patient_hash"):
        frame(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_text("Image,Labels\n1,2\n")
    with pytest.raises(ValueError, match="lacks the columns"):
        frame(tmp_path)
    with pytest.raises(ValueError, match="split='random'"):
        NIH14Source("nih", tmp_path, split="random")
    with pytest.raises(ValueError, match="sft_share=70"):
        NIH14Source("nih", tmp_path, sft_share=70)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("longer", ["header", "rows"])
def test_a_trailing_comma_shifts_no_column(tmp_path, longer):
    vendor(tmp_path)
    expected = frame(tmp_path)
    csv = tmp_path / "Data_Entry_2017_v2020.csv"
    header, *lines = csv.read_text().splitlines()
    comma = {"header": (",", ""), "rows": ("", ",")}[longer]
    csv.write_text("\n".join([header + comma[0], *(line + comma[1] for line in lines)]))
    pd.testing.assert_frame_equal(frame(tmp_path), expected)


@pytest.mark.parametrize(
    ("text", "years"), [("57", 57), ("058Y", 58), ("018M", 1), ("003D", 0), ("", None), ("?", None)]
)
def test_ages_of_both_releases(text, years):
    assert _years(text) == years if years is not None else np.isnan(_years(text))


@pytest.mark.parametrize("name", ["nih", "nih_lowres128"])
def test_the_real_sets_are_reproduced(name):
    """Split, labels and facts of the convenience table, from the vendor's csv alone."""
    if not (DATA / name / "labels.csv").is_file():
        pytest.skip(f"no {name} under {DATA}; set CHEXREASON_DATA")
    rows = frame(DATA / name, split="patient_hash").set_index("path")
    table = pd.read_csv(DATA / name / "labels.csv").set_index("path")
    assert set(rows.index) == set(table.index)
    table = table.loc[rows.index]
    assert (rows["split"].replace({"sft": "train", "rl": "train"}) == table["split"]).all()
    assert (rows["view"] == table["view"]).all()
    assert (rows["sex"] == table["sex"]).all()
    for label in CHEXPERT14.labels:
        np.testing.assert_array_equal(rows[label].to_numpy(float), table[label].to_numpy(float), err_msg=label)
