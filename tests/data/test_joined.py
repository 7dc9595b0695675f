"""PadChest and VinDr-CXR from trees as downloaded, and several hospitals as one set."""

import numpy as np
import pandas as pd
import pytest

from chexreason.data.credentialed import declared_public, of_vendor
from chexreason.data.manifest import studies
from chexreason.data.prepare import prepare_set
from chexreason.data.sources.joined import JoinedSource, padchest, vindr
from chexreason.data.sources.table import voted
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.crosswalk import crosswalk_of, names_of, never_judged
from chexreason.labels.uncertainty import IGNORE
from chexreason.phantom import PhantomSource
from chexreason.progress import silent
from tests.support.hospitals import PADCHEST_CSV, PATIENT, padchest_tree, vindr_tree
from tests.support.manifests import rows_of


def found(rows, mark: float = 1.0) -> dict[str, set[str]]:
    """The labels of each study that have this mark."""
    return {row["study_id"]: {label for label in CHEXPERT14 if row[label] == mark} for _, row in rows.iterrows()}


@pytest.mark.parametrize("mark", [",", ";"])
def test_padchest_is_read_as_downloaded(tmp_path, mark, caplog):
    made = prepare_set(padchest("pc", padchest_tree(tmp_path / "pc", mark)), tmp_path / "out")
    rows = made.frame
    assert found(rows) == {
        f"pc:{PATIENT}7_k6ga29": {"Pleural Effusion", "Cardiomegaly", "Enlarged Cardiomediastinum"},
        f"pc:{PATIENT}1_a1": {"No Finding"},
        f"pc:{PATIENT}2_a2": {"No Finding", "Support Devices"},
        f"pc:{PATIENT}3_a3": set(),  # scoliosis is no label, and no health either
        f"pc:{PATIENT}6_a6": {"Lung Lesion", "Lung Opacity"},
    }
    assert rows[list(CHEXPERT14)].notna().all(axis=None)  # PadChest has names for all labels
    assert rows[["path", "view", "sex", "age", "patient_id"]].iloc[0].tolist() == [
        f"0/{PATIENT}7_k6ga29.png", "PA", "M", 84, f"padchest:{PATIENT}7"
    ]  # fmt: skip
    assert rows["age"].isna().sum() == 1
    assert rows["exam_id"].iloc[0].endswith("/S1")
    assert "2 names in Labels are no label's" in caplog.text
    assert crosswalk_of(made.provenance).names["pneumonia"] == ("Lung Opacity", "Pneumonia")
    assert not declared_public({"pc": made})[0]


def test_padchest_takes_the_views_and_the_labeller_asked_for(tmp_path):
    padchest_tree(tmp_path)
    lateral = rows_of(padchest("pc", tmp_path, views=["L"], method="Physician"))
    assert lateral["study_id"].tolist() == [f"pc:{PATIENT}7_00-163-058"]
    with pytest.raises(ValueError, match=r"PadChest views=\['lateral'\]; choose from: PA, AP, AP_h"):
        padchest("pc", tmp_path, views=["lateral"])
    with pytest.raises(
        ValueError, match=r"'pc' has no row with MethodLabel in \['physician'\]; it has: RNN_model 6, Phy"
    ):
        rows_of(padchest("pc", tmp_path, method="physician"))
    csv = tmp_path / PADCHEST_CSV
    csv.write_text(csv.read_text().replace("['normal']", "normal"))
    with pytest.raises(ValueError, match=r"1 rows whose Labels is no list like \['mass'\]: line 4 'normal'"):
        rows_of(padchest("pc", tmp_path))
    csv.unlink()
    with pytest.raises(FileNotFoundError, match=r"no PADCHEST_.*01\.02\.19\.csv or PADCHEST_.*gz in"):
        padchest("pc", tmp_path)


def test_readers_who_are_unsure_count_half():
    marks = pd.DataFrame({"study_id": list("aaabbbcc"), **dict.fromkeys(CHEXPERT14, 0.0)})
    assert voted(marks.assign(Edema=[1, 0, -1, 0, 0, -1, np.nan, 1]))["Edema"].tolist() == [-1, 0, 1]


def test_vindr_is_the_majority_of_its_readers_and_a_tie_is_uncertain(tmp_path):
    made = prepare_set(vindr("vin", vindr_tree(tmp_path / "vin")), tmp_path / "out")
    train, test = (f"vin:train/{0:031x}", f"vin:test/{6:031x}")
    assert found(made.frame) == {
        f"{train}0": {"Lung Lesion", "Lung Opacity"},  # two readers, by two names
        f"{train}1": {"No Finding"},
        f"{train}2": {"Cardiomegaly"},
        f"{train}3": set(),
        f"{test}4": {"Pleural Effusion"},
        f"{test}5": {"Fracture", "Lung Opacity"},
    }
    assert found(made.frame, -1.0)[f"{train}3"] == {"Edema", "Lung Opacity", "No Finding"}
    never = never_judged(names_of("vindr"))
    assert never == ("Enlarged Cardiomediastinum", "Support Devices")
    assert made.frame[list(never)].isna().all(axis=None)  # masked, never absent
    assert made.frame[[label for label in CHEXPERT14 if label not in never]].notna().all(axis=None)
    assert set(made.frame["split"][:4]) <= {"sft", "rl", "val"}
    assert set(made.frame["split"][4:]) == {"test"}
    assert all(map(of_vendor, made.frame["patient_id"]))
    csv = tmp_path / "vin/annotations/image_labels_train.csv"
    csv.write_text(csv.read_text().replace("R9", "R8"))
    with pytest.raises(ValueError, match=r"4 rows that repeat a rad_id of the image_id .suffix aside.: line 6"):
        rows_of(vindr("vin", tmp_path / "vin"))


def test_a_joined_set_masks_what_one_hospital_never_judges(tmp_path):
    phantoms = {h: PhantomSource(f"phantom_{h}", h, n={"sft": 3, "test": 2}, size=48) for h in "ab"}
    made = prepare_set(JoinedSource("both", phantoms), tmp_path / "out")
    frame, alone = made.frame, phantoms["b"].prepare(tmp_path / "b", silent)
    assert made.split_counts() == {"sft": 6, "test": 4}
    assert frame["study_id"].str.partition("/")[0].tolist() == ["both:a"] * 5 + ["both:b"] * 5
    assert all((made.root / path).is_file() for path in frame["path"])
    never = [label for label in CHEXPERT14 if alone[label].isna().all()]
    assert never
    one = next(study for study in studies(made, CHEXPERT14, IGNORE, ["test"]) if "both:b" in study.study_id)
    assert {label for label, on in zip(CHEXPERT14, one.mask, strict=True) if not on} >= set(never)
    assert crosswalk_of({"hospitals": {"n": {"source": "nih14"}, "p": {}}}).rows()[0] == (
        "n: Atelectasis", "Atelectasis", "Lung Opacity"
    )  # fmt: skip
    absent = JoinedSource("both", phantoms, without=["a"], blank_is_absent=["b"]).prepare(tmp_path / "c", silent)
    assert absent[never].isna().all(axis=None)
    assert absent[[label for label in CHEXPERT14 if label not in never]].notna().all(axis=None)
    with pytest.raises(ValueError, match="there is no hospital 'c' in 'both': it has a, b"):
        JoinedSource("both", phantoms, without=["c"])
