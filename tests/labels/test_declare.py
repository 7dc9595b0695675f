"""The list a set is scored on, its declaration in words, and the page made from the same tables."""

from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9, restrict
from chexreason.labels.crosswalk import NIH, NIH14, Crosswalk, crosswalk_of, nih_to_chexpert
from chexreason.labels.declare import declare, in_words
from chexreason.labels.uncertainty import IGNORE, ONES, POSITIVES_ONLY, LabelPolicy
from chexreason.types import Study
from tools.labels_page import document

NIH_JUDGES = tuple(NIH)


def test_the_page_in_docs_is_what_the_code_says():
    page = Path(__file__).parents[2] / "docs" / "LABELS.md"
    assert page.read_text() == document(), "run: python -m tools.labels_page > docs/LABELS.md"


def test_a_declaration_names_policy_labels_and_every_vendor_name():
    text = declare("nih", POSITIVES_ONLY, NIH_JUDGES, NIH14, "nih9")
    lines = text.splitlines()
    assert lines[:4] == [
        "nih: labels by positives_only: uncertain=negative, blank=negative (uncertain or blank counts as absent)",
        "  scored on 9 of 14 labels: Atelectasis, Cardiomegaly, Consolidation, Edema, Lung Lesion, No Finding, "
        "Pleural Other, Pneumonia, Pneumothorax",
        "  never judged, so not scored: Enlarged Cardiomediastinum, Fracture, Support Devices",
        "  set aside by its label list nih9: Lung Opacity, Pleural Effusion",
    ]
    assert lines[4] == "  names of NIH ChestX-ray14:"
    for row in (
        "    Mass               -> Lung Lesion; makes Lung Opacity positive",
        "    Pleural_Thickening -> Pleural Other",
        "    Infiltration       -> no label of its own; makes Lung Opacity positive",
        "    Hernia             -> no label of its own",
    ):
        assert row in lines
    assert len(lines) == 5 + 15


def test_a_declared_list_never_adds_a_label_and_a_set_that_judges_all_has_little_to_say():
    text = declare("kermany", POSITIVES_ONLY, ("No Finding", "Pneumonia"), None, "nih9")
    assert "scored on 2 of 14 labels: No Finding, Pneumonia\n" in text
    assert declare("mimic", IGNORE, CHEXPERT14.labels).splitlines()[2:] == ["  names: CheXpert's own, one to one"]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (ONES, "uncertain counts as present, blank is left out of the scores"),
        (IGNORE, "uncertain or blank is left out of the scores"),
        (LabelPolicy("mine", "masked", "negative"), "uncertain is left out of the scores, blank counts as absent"),
    ],
)
def test_policies_in_words(policy, words):
    assert in_words(policy) == words


@pytest.mark.parametrize(("theirs", "ours", "derived"), NIH14.rows())
def test_the_printed_table_is_what_is_applied(theirs, ours, derived):
    positives = set(CHEXPERT14.decode((nih_to_chexpert([theirs])[0] == 1).tolist()))
    assert positives == {label for label in (ours, derived) if label}


def test_the_crosswalk_comes_from_the_provenance():
    assert crosswalk_of({"source": "nih14", "include_opacity": True}) is NIH14
    assert crosswalk_of({"source": "nih14", "include_opacity": False}).derived == {}
    assert crosswalk_of({"source": "mimic_cxr"}) is None
    table = crosswalk_of({"source": "table", "label_columns": {"Pneumonia": "pna", "Lung Lesion": ["mass", "nodule"]}})
    assert table.rows() == [("pna", "Pneumonia", ""), ("mass", "Lung Lesion", ""), ("nodule", "Lung Lesion", "")]
    assert crosswalk_of({"source": "table", "label_columns": None}) is None
    names = {"Airspace": "Lung Opacity", "Scoliosis": "", "X": ["Edema"]}
    own = Crosswalk("readers", {"Airspace": ("Lung Opacity",), "Scoliosis": (), "X": ("Edema",)})
    assert crosswalk_of({"source": "readers", "crosswalk": names}) == own


def test_labels_outside_the_list_are_masked_and_the_rest_is_as_it_was():
    mask = tuple(label != "Edema" for label in CHEXPERT14)
    target = CHEXPERT14.encode(["Pleural Effusion", "Pneumonia"])
    study = Study("s", "p", "nih", Path("x.png"), target, mask)
    (kept,) = restrict([study], CHEXPERT14, "nih9")
    assert set(CHEXPERT14.decode(kept.mask)) == set(NIH9.labels) - {"Edema"}
    assert CHEXPERT14.decode(kept.target) == ("Pneumonia",)
    assert (study.target, study.mask) == (target, mask)
    assert restrict([study], CHEXPERT14, None) == [study]
    assert restrict([study], CHEXPERT14, "chexpert14") == [study]


def test_an_unknown_list_is_named_even_for_no_study():
    with pytest.raises(KeyError, match="unknown label set 'nih8'; known: chexpert14, nih9"):
        restrict([], CHEXPERT14, "nih8")
