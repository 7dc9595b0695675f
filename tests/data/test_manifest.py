"""The manifest: what it refuses, what it keeps, and which row's labels a study gets."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from chexreason.data.manifest import (
    METADATA_KEY,
    Manifest,
    ManifestError,
    conform,
    read_manifest,
    studies,
    write_manifest,
)
from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import IGNORE, POSITIVES_ONLY
from chexreason.types import Sign
from tests.support.manifests import manifest_rows

NAN = float("nan")
DROPPED = "without this column"


def rows(n: int = 4, **columns) -> pd.DataFrame:
    """``n`` studies of ``n`` patients, the first half for sft, with no mark at all in Fracture."""
    base = {"split": ["sft" if i < n // 2 else "test" for i in range(n)], "Fracture": NAN}
    return manifest_rows("x", n, **(base | columns))


def held(**columns) -> Manifest:
    """The rows as a manifest holds them."""
    return Manifest(conform(rows(**columns)), {}, Path("root"))


def test_a_manifest_survives_the_disk_and_moves_with_its_folder(tmp_path):
    frame = rows(
        Edema=[1, 0, -1, NAN],
        age=[60, None, 130, 0],
        signs=['[{"label": "Edema"}]', None, "", "[]"],
        sha256=["a", "b", None, ""],
        phash="00ff00ff00ff00ff",
        exam_id=["x:e1", "x:e1", "", None],
    )
    write_manifest(Manifest(frame, {"seed": 3}, tmp_path / "old"), tmp_path / "old" / "manifest.parquet")
    (tmp_path / "old").rename(tmp_path / "new")
    back = read_manifest(tmp_path / "new" / "manifest.parquet")
    pd.testing.assert_frame_equal(back.frame, conform(frame))
    assert back.provenance == {"seed": 3}
    assert back.root / back.frame["path"][0] == tmp_path / "new" / "images" / "0.png"
    assert back.frame["exam_id"].tolist() == ["x:e1", "x:e1", "", ""]
    found = studies(back, CHEXPERT14, IGNORE, ["sft", "test"])
    assert [(study.age, study.image_sha256) for study in found] == [(60, "a"), (None, "b"), (None, ""), (0, "")]
    assert studies(held(), NIH9, IGNORE, ["sft"])[0].image_sha256 == ""  # a manifest without hashes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Edema": [1, 0, 2, 0]}, r"label 'Edema' of study x:2 \(row 2\) is '2'; allowed: 1, 0, -1 or blank"),
        ({"Edema": ["1", "0", "present", "0"]}, "label 'Edema' of study x:2"),
        ({"study_id": ["a", "b", "a", "c"]}, "1 study_id appear more than once: a"),
        ({"patient_id": ["p", "q", "p", "r"]}, "1 patients are in more than one split: p in sft and test"),
        ({"patient_id": ["p", None, "q", "r"]}, "column 'patient_id' is empty in row 1"),
        ({"dataset": ["x", "y", "x", "x"]}, "one manifest holds one data set"),
        ({"Oedema": 0.0}, r"not known: \['Oedema'\]"),
        ({"path": DROPPED, "Pneumonia": DROPPED}, r"columns missing: \['path', 'Pneumonia'\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_rows_that_cannot_be_trusted_are_refused(change, message):
    with pytest.raises(ManifestError, match=message):
        conform(rows(**change).drop(columns=[column for column, value in change.items() if value is DROPPED]))


def test_conform_and_studies_leave_their_input_unchanged():
    frame = rows(Edema=[1, 0, -1, NAN])
    before = frame.copy(deep=True)
    manifest = Manifest(conform(frame), {}, Path("root"))
    pd.testing.assert_frame_equal(frame, before)
    kept = manifest.frame.copy(deep=True)
    studies(manifest, CHEXPERT14, IGNORE, ["sft", "test"])
    pd.testing.assert_frame_equal(manifest.frame, kept)


def test_each_study_keeps_its_own_row():
    """Two studies of one patient, blanks in the first: labels and image must not be filled in from the second."""
    manifest = held(
        patient_id=["x:p", "x:p", "x:q", "x:q"],
        Edema=[NAN, 1.0, 0.0, NAN],
        Pneumonia=[1.0, NAN, -1.0, 0.0],
        age=[None, 41, 42, None],
    )
    found = {s.study_id: s for s in studies(manifest, LabelSet("two", ("Pneumonia", "Edema")), IGNORE, ["test", "sft"])}
    assert [(found[f"x:{i}"].target, found[f"x:{i}"].mask) for i in range(4)] == [
        ((1, 0), (True, False)),
        ((0, 1), (False, True)),
        ((0, 0), (False, True)),
        ((0, 0), (True, False)),
    ]
    assert [found[f"x:{i}"].image for i in range(4)] == [Path(f"root/images/{i}.png") for i in range(4)]
    assert [found[f"x:{i}"].age for i in range(4)] == [None, 41, 42, None]


def test_never_labelled_is_judged_over_all_splits():
    manifest = held(Fracture=[NAN, NAN, NAN, 1.0], **{"Support Devices": NAN})
    sft = studies(manifest, CHEXPERT14, POSITIVES_ONLY, ["sft"])
    assert all(study.mask[CHEXPERT14.index("Fracture")] for study in sft)
    assert not any(study.mask[CHEXPERT14.index("Support Devices")] for study in sft)


def test_an_empty_split_and_an_unknown_label_are_explained():
    manifest = held()
    with pytest.raises(ManifestError, match="no studies in split 'rl' of root; splits it has: sft 2, test 2"):
        studies(manifest, NIH9, POSITIVES_ONLY, ["sft", "rl"])
    with pytest.raises(ManifestError, match="'mine' has labels no manifest holds: Hernia"):
        studies(manifest, LabelSet("mine", ("Edema", "Hernia")), POSITIVES_ONLY, ["sft"])


def test_signs_are_read_and_bad_ones_refused():
    good = '[{"label": "Edema", "side": "both", "severity": 0.25}]'
    manifest = held(signs=[good, "", None, "[]"])
    found = studies(manifest, CHEXPERT14, POSITIVES_ONLY, ["sft", "test"])
    assert [study.signs for study in found] == [(Sign("Edema", "both", 0.25),), (), (), ()]
    manifest = held(signs='[{"name": "Edema"}]')
    with pytest.raises(ManifestError, match="signs of study x:0"):
        studies(manifest, CHEXPERT14, POSITIVES_ONLY, ["sft"])


def test_readers_may_judge_again_what_another_split_holds():
    frame = rows(patient_id=["p", "q", "p", "q"], split=["sft", "test", "readers", "readers"])
    assert conform(frame)["split"].tolist() == ["sft", "test", "readers", "readers"]
    with pytest.raises(ManifestError, match="1 patients are in more than one split: p in sft and rl"):
        conform(frame.assign(split=["sft", "test", "rl", "readers"]))
    with pytest.raises(ManifestError, match="8 patients") as caught:
        conform(rows(16, patient_id=[f"p{i % 8}" for i in range(16)]))
    assert str(caught.value).count("sft and test") == 5  # no more are listed


def rewrite(path: Path, frame: pd.DataFrame | None = None, **header) -> None:
    """Alters a written manifest behind the writer's back."""
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    metadata[METADATA_KEY] = json.dumps(json.loads(metadata[METADATA_KEY]) | header).encode()
    if frame is not None:
        table = table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_read_refuses_what_it_did_not_write(tmp_path):
    path = tmp_path / "manifest.parquet"

    def refused(message: str) -> None:
        with pytest.raises(ManifestError, match=message):
            read_manifest(path)

    refused("no manifest at")
    path.write_text("no parquet")
    refused("not readable as Parquet")
    rows().to_parquet(path)
    refused("not a manifest of chexreason")
    for change, message in (
        ({"schema": 0}, "schema 0; this version reads 2"),
        ({"frame": conform(rows(Edema=1.0))}, "altered"),
    ):
        write_manifest(Manifest(rows(), {}, tmp_path), path)
        rewrite(path, **change)
        refused(message)


def test_a_failed_write_leaves_the_old_manifest_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "manifest.parquet"
    write_manifest(Manifest(rows(), {"version": 1}, tmp_path.parent), path)

    def half(table, where):
        Path(where).write_bytes(b"half")
        raise OSError("interrupted")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="interrupted"):
        write_manifest(Manifest(rows(), {"version": 2}, tmp_path), path)
    assert read_manifest(path).provenance == {"version": 1}
    assert read_manifest(path).root == tmp_path.parent  # a vendor's root is kept absolute
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.parquet"]
