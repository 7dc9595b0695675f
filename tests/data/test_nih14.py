"""NIH ChestX-ray14: the vendor's csv, any usual folder layout, and splits by patient."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexreason.data.sources.nih14 import NIH14Source
from chexreason.labels.catalog import CHEXPERT14
from tests.support.manifests import rows_of

SPLITS_OF_TEN = ("sft", "sft", "test", "sft", "sft", "test", "test", "sft", "val", "val")  # of patients 1 to 10
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


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
    return rows_of(NIH14Source("nih", folder, **options))


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG"])
@pytest.mark.parametrize("layout", ["images", ".", "images_{:03d}/images", "images/images", "images-224/images-224"])
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
    positive = [label for label in CHEXPERT14.labels if row[label] == 1]
    assert positive == ["Lung Lesion", "Lung Opacity", "Pleural Effusion"]
    assert np.isnan(row["Fracture"])


@pytest.mark.parametrize("split", ["official", "patient_hash"])
def test_no_patient_crosses_and_every_split_is_filled(tmp_path, split):
    rows = frame(vendor(tmp_path), split=split)
    assert rows.groupby("patient_id")["split"].nunique().eq(1).all()
    assert set(rows["split"]) == {"sft", "rl", "val", "test"}
    if split == "official":
        assert set(rows["patient_id"][rows["split"] == "test"]) == {f"nih14:{i}" for i in range(1, 13)}
    all_sft, all_rl = (frame(tmp_path, split=split, sft_share=share) for share in (1.0, 0.0))
    assert set(all_sft["split"]) == {"sft", "val", "test"}  # the share moves training patients only
    assert (all_sft["split"].replace("sft", "rl") == all_rl["split"]).all()


def test_however_the_csv_pads_the_patient_the_splits_are_those_of_all_figures_before(tmp_path):
    plain = frame(vendor(tmp_path), split="patient_hash")
    entries = tmp_path / "Data_Entry_2017_v2020.csv"
    entries.write_text(re.sub(r",0,(\d+),58", lambda found: f",0,{int(found[1]):08d},58", entries.read_text()))
    pd.testing.assert_frame_equal(frame(tmp_path, split="patient_hash"), plain)
    of_ten = plain.drop_duplicates("patient_id").set_index("patient_id")["split"][:10]
    assert of_ten.to_dict() == dict(zip([f"nih14:{i}" for i in range(1, 11)], SPLITS_OF_TEN, strict=True))


@pytest.mark.slow
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
    with pytest.raises(ValueError, match=r"1 of 120 images.*00000002_000\.png.*allow_missing=true"):
        frame(tmp_path)
    assert len(frame(tmp_path, allow_missing=True)) == 119
    assert "1 of 120 images are missing" in caplog.text
    table = tmp_path / "Data_Entry_2017_v2020.csv"
    table.write_text("\n".join(table.read_text().split("\n")[:-2]))  # it was cut short
    with pytest.raises(ValueError, match=r"1 images of the official lists have no row: 00000060_001\.png; .*set allow"):
        frame(tmp_path)
    assert len(frame(tmp_path, allow_missing=True)) == 118
    assert "1 images of the official lists have no row: 00000060_001.png" in caplog.text
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="119 of 119 images are not in the folder"):
        frame(tmp_path, allow_missing=True)


def test_provenance_tells_preparations_apart(tmp_path):
    vendor(tmp_path)
    first = NIH14Source("nih", tmp_path).provenance
    assert first == NIH14Source("nih", tmp_path).provenance
    assert NIH14Source("nih", tmp_path, sft_share=0.5).provenance != first
    with (tmp_path / "test_list.txt").open("a") as file:
        file.write("\n")
    assert NIH14Source("nih", tmp_path).provenance != first


@pytest.mark.slow
def test_wrong_folders_and_files_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no Data_Entry_2017_v2020\.csv or Data_Entry_2017\.csv in"):
        frame(tmp_path)
    vendor(tmp_path, csv="Data_Entry_2017.csv")
    assert len(frame(tmp_path)) == 120
    (tmp_path / "test_list.txt").write_text("")
    with pytest.raises(ValueError, match="24 rows whose image is in neither official list"):
        frame(tmp_path)
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match="set split=patient_hash"):
        frame(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_text("Image,Labels\n1,2\n")
    with pytest.raises(ValueError, match="lacks the columns"):
        frame(tmp_path, split="patient_hash")
    with pytest.raises(ValueError, match="split='random'"):
        NIH14Source("nih", tmp_path, split="random")
    with pytest.raises(ValueError, match="sft_share=70"):
        NIH14Source("nih", tmp_path, sft_share=70)


def edit(path: Path, *replacements: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


def test_all_faults_come_in_one_message(tmp_path):
    vendor(tmp_path, n=20)
    edit(
        tmp_path / "Data_Entry_2017_v2020.csv",
        ("00000001_001.png,Effusion|Mass", "00000001_000.png,Effusion|Mass"),
        ("00000002_000.png,Effusion|Mass,0,2,", "00000002_000.png,effusion,0,2,"),
        ("00000002_001.png,Effusion|Mass,0,2,", "00000002_001.png,No Finding|Mass,0,3,"),
        ("00000003_000.png,Effusion|Mass,0,3,", "00000003_000.png,,0,3.5,"),
        ("00000004_000.png,Effusion|Mass", "00000077_000.png,Effusion|Mass"),
    )
    edit(tmp_path / "train_val_list.txt", ("00000013_000.png", "00000013_000.png\n00000005_000.png\n00000099_000.png"))
    edit(tmp_path / "test_list.txt", ("00000006_000.png\n", "00000014_000.png\n"))
    with pytest.raises(ValueError, match="kinds of fault; nothing was written") as caught:
        frame(tmp_path)
    for fault in (
        "3 images of the official lists have no row: 00000001_001.png, 00000004_000.png, 00000099_000.png; ",
        "1 rows that repeat the Image Index: line 3 '00000001_000.png'",
        "2 rows with a finding NIH does not have ('effusion' (closest: 'Effusion'), '')",
        "1 rows with 'No Finding' beside another finding: line 5 'No Finding|Mass'",
        "1 rows with a Patient ID that is no whole number: line 6 '3.5'",
        "whose Patient ID is not the one in the image's name: line 5 '00000002_001.png'",
        "test_list.txt: 2 images are in train_val_list.txt too: 00000005_000.png, 00000014_000.png",
        "test_list.txt: 1 patients have images in both lists: 14",
        "rows whose image is in neither official list: line 8 '00000077_000.png'",
        "1 of 40 images are not in the folder: 00000077_000.png",
    ):
        assert fault in str(caught.value)


def test_hernia_a_bom_and_a_patient_number_as_float_are_read(tmp_path):
    expected = frame(vendor(tmp_path))
    edit(tmp_path / "Data_Entry_2017_v2020.csv", ("Effusion|Mass,0,1,", "Hernia,0,1.0,"))
    (tmp_path / "test_list.txt").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "test_list.txt").read_bytes())
    rows = frame(tmp_path)
    same = ["study_id", "patient_id", "split"]
    pd.testing.assert_frame_equal(rows[same], expected[same])
    marks = rows.iloc[0][list(CHEXPERT14.labels)]
    assert marks.dropna().eq(0).all()
    assert marks.isna().sum() == 3


@pytest.mark.parametrize("name", ["nih", "nih_lowres128"])
def test_the_real_sets_are_reproduced(shared_data, name):
    """Split, labels and facts of the convenience table, from the vendor's csv alone."""
    rows = frame(shared_data / name, split="patient_hash").set_index("path")
    table = pd.read_csv(shared_data / name / "labels.csv").set_index("path")
    assert set(rows.index) == set(table.index)
    rows = rows.replace({"split": {"sft": "train", "rl": "train"}})
    columns = ["split", "view", "sex", *CHEXPERT14.labels]
    pd.testing.assert_frame_equal(rows[columns], table.loc[rows.index, columns], check_dtype=False)
