"""A set of the data config as it is scored: policy from a name or spelled out, label list, identity of the data."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from chexreason.build.data import declaration, load_manifest, load_studies
from chexreason.data.manifest import Manifest, content_hash, write_manifest
from chexreason.labels.catalog import CHEXPERT14, NIH9

NAN = float("nan")


def _config(folder: Path, **options: object) -> DictConfig:
    marks = dict.fromkeys(CHEXPERT14.labels, 0.0) | {"Fracture": NAN, "Edema": -1.0, "Pleural Effusion": 1.0}
    row = {"study_id": "s", "patient_id": "p", "dataset": "nih", "split": "test", "path": "s.png"}
    frame = pd.DataFrame([{**row, "view": "", "sex": "", "age": NAN, **marks}])
    write_manifest(Manifest(frame, {"source": "nih14"}, folder / "nih"), folder / "nih" / "manifest.parquet")
    sets = {"nih": {"policy": "ones", **options}}
    return OmegaConf.create({"data": {"name": "d", "folder": str(folder), "sets": sets}})


def _read(cfg: DictConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    (study,) = load_studies(cfg, "nih", ("test",), CHEXPERT14)
    return CHEXPERT14.decode(study.target), CHEXPERT14.decode(study.mask)


def test_a_policy_is_a_name_or_spelled_out(tmp_path) -> None:
    assert _read(_config(tmp_path))[0] == ("Edema", "Pleural Effusion")
    spelled = {"name": "mine", "uncertain": "masked", "blank": "negative"}
    positives, judged = _read(_config(tmp_path, policy=spelled))
    assert positives == ("Pleural Effusion",)
    assert set(CHEXPERT14.labels) - set(judged) == {"Edema", "Fracture"}
    with pytest.raises(KeyError, match="unknown label policy 'u-ones'; known: positives_only"):
        _read(_config(tmp_path, policy="u-ones"))


def test_a_label_list_restricts_what_is_scored(tmp_path) -> None:
    positives, judged = _read(_config(tmp_path, label_list="nih9"))
    assert judged == NIH9.labels
    assert positives == ("Edema",)


def test_the_declaration_carries_policy_data_and_words(tmp_path) -> None:
    cfg = _config(tmp_path, label_list="nih9")
    manifest = load_manifest(cfg, "nih")
    found = declaration(cfg, "nih", manifest)
    assert found["policy"] == "ones: uncertain=positive, blank=masked"
    assert found["data_sha256"] == content_hash(manifest.frame)[:16]
    for words in ("scored on 9 of 14", "Infiltration       -> no label", "never judged, so not scored: Fracture\n"):
        assert words in found["text"]


def test_a_set_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(KeyError, match="data set 'mimic' is not in data=d; it has: nih"):
        load_manifest(_config(tmp_path), "mimic")


def test_a_set_of_which_no_label_is_judged_is_refused_before_anything_is_asked(tmp_path) -> None:
    cfg = _config(tmp_path, label_list="nih9")
    path = tmp_path / "nih" / "manifest.parquet"
    blank = load_manifest(cfg, "nih")
    frame = blank.frame.assign(**{label: NAN for label in NIH9})
    write_manifest(Manifest(frame, blank.provenance, blank.root), path)
    with pytest.raises(ValueError, match=r"none of the 1 studies of 'nih' in test has a judged label \(policy ones"):
        _read(cfg)
    both = pd.concat([frame, blank.frame.assign(study_id="t", patient_id="q")])
    write_manifest(Manifest(both, blank.provenance, blank.root), path)
    drawn = {}
    for cfg.seed in range(8):
        try:
            drawn[len(load_studies(cfg, "nih", ("test",), CHEXPERT14, limit=1))] = cfg.seed
        except ValueError as refused:
            drawn[str(refused)] = cfg.seed
    assert len(drawn) == 2
    assert "none of the 1 studies of 'nih' in test" in str(drawn)
    assert "limit 1): no answer to them can be scored; change data.sets.nih.policy or label_list, raise" in str(drawn)
    write_manifest(Manifest(frame, blank.provenance, blank.root), path)
    del cfg.data.sets.nih.label_list  # the way out
    assert _read(cfg)[1] == tuple(label for label in CHEXPERT14 if label not in NIH9.labels and label != "Fracture")
