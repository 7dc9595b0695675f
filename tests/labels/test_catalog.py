"""A set read with fourteen labels and scored on nine."""

from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9, restrict
from chexreason.types import Study

ALL = (True,) * 14


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
