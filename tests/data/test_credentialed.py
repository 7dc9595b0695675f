"""A set is public where it was declared so, and no declaration covers films of MIMIC, CheXpert or a neighbour."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from chexreason.data.credentialed import agreement_for, declared_public, held_sets
from chexreason.data.manifest import Manifest
from chexreason.types import Prediction
from tests.support.configs import composed

SAID = {"source": "table", "public": True}


def prepared(root: Path, provenance: dict, patients=("own:1", "own:2"), paths=("films/a.png", "films/b.png"), sha=""):
    return Manifest(pd.DataFrame({"patient_id": patients, "path": paths, "sha256": [sha, ""]}), provenance, root)


@pytest.mark.parametrize(
    ("provenance", "public"),
    [
        (SAID, True),
        ({"source": "table"}, False),
        ({"source": "table", "public": "true"}, False),
        ({"source": "table", "public": 1}, False),
        ({"source": "phantom"}, True),  # of before the declaration
        ({"source": "nih14"}, False),  # another hospital's films in NIH's folders
        ({"source": "nih14", "public_names": "[ab]"}, True),
        ({"source": "phantom", "public": False}, False),
        ({"source": "mimic_cxr"}, False),
        (SAID | {"public_names": "[ab]"}, True),
        (SAID | {"public_names": "a"}, False),
    ],
)
def test_only_a_declaration_makes_a_set_public(provenance, public, tmp_path) -> None:
    assert declared_public({"x": prepared(tmp_path, provenance)}) == ({"x"} if public else set(), {})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"patients": ("mimic:1", "own:2")}, "patients or files"),
        ({"patients": ("own:1", "MIMIC-CXR-JPG:2")}, "patients or files"),
        ({"patients": ("own:1", "chexpert_small:2")}, "patients or files"),
        ({"patients": ("own:p10000032", "own:2")}, "patients or files"),
        ({"patients": ("own:patient64541", "own:2")}, "patients or files"),
        ({"patients": ("own:10000032", "own:19999999")}, "patients or files"),
        ({"patients": ("own:10000032", "own:2")}, ""),  # such a number is in any large hospital
        ({"paths": ("p10/p10000032/s50414267/x.jpg", "b.png")}, "patients or files"),
        ({"paths": ("train/patient00001/study1/view1_frontal.jpg", "b.png")}, "patients or files"),
        ({"paths": ("02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.png", "b.png")}, "patients or files"),
        ({"paths": ("P10000032_S50414267.png", "b.png")}, "patients or files"),
        ({"paths": ("patient00001_study1_view1.png", "b.png")}, "patients or files"),
        ({"paths": ("550e8400-e29b-41d4-a716-446655440000.png", "b.png")}, ""),
        ({"sha": "same"}, "images of set 'held'"),
        ({"paths": ("../held/films/c.png", "b.png")}, "images of set 'held'"),
        ({"paths": ("link/c.png", "b.png")}, "images of set 'held'"),
        ({}, ""),
    ],
)
def test_no_declaration_covers_the_films_of_others(changes, fault, tmp_path) -> None:
    (tmp_path / "held" / "films").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "link").symlink_to(tmp_path / "held" / "films")
    held = prepared(tmp_path / "held", {"source": "table"}, sha="same")
    public, faults = declared_public({"x": prepared(tmp_path / "x", SAID, **changes), "held": held})
    assert (public == {"x"}) == (fault == "")
    assert fault in faults.get("x", "")


def test_a_record_of_a_set_that_nobody_declared_needs_a_named_agreement() -> None:
    rows = [Prediction("s", p, d, "t", (), (), ()) for d, p in (("nih", "nih14:1"), ("x", "x:1"), ("nih", "mimic:1"))]
    assert held_sets(rows, {"nih"}) == ["nih", "x"]
    assert agreement_for(rows[:1], {"nih"}, None, "there") is None
    for nameless in (None, "", "yes", True, "  null   "):
        with pytest.raises(ValueError, match=r"studies of x are not declared public and may not go there, or name"):
            agreement_for(rows[1:2], {"nih"}, nameless, "there")
    assert agreement_for(rows, {"nih"}, " the DUA of May ", "there") == "the DUA of May"


def test_the_shipped_sets_that_are_public_say_so_and_no_other(monkeypatch) -> None:
    for variable in ("NIH_ROOT", "OOD_ROOT", "MIMIC_ROOT", "CHEXPERT_ROOT"):
        monkeypatch.setenv(variable, variable.lower())
    configs = [composed("prepare", f"data={name}").data for name in ("phantom", "nih_kermany", "nih_readers", "paper")]
    sets = {(data.name, name): node.get("public", False) for data in configs for name, node in data.sets.items()}
    assert {name for name, public in sets.items() if not public} == {("paper", "mimic"), ("paper", "chexpert")}
