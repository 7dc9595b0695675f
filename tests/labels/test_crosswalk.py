"""NIH's finding names to CheXpert's labels."""

import numpy as np
import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.labels.crosswalk import NIH, NIH14, never_judged, nih_to_chexpert


def positives(text: str) -> set[str]:
    return set(CHEXPERT14.decode((nih_to_chexpert([text])[0] == 1).tolist()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No Finding", {"No Finding"}),
        ("Hernia", set()),
        ("Effusion", {"Pleural Effusion"}),
        ("Pleural_Thickening", {"Pleural Other"}),
        ("Mass", {"Lung Lesion", "Lung Opacity"}),
        ("Nodule", {"Lung Lesion", "Lung Opacity"}),
        ("Mass|Nodule", {"Lung Lesion", "Lung Opacity"}),
        ("Infiltration|Emphysema", {"Lung Opacity"}),
        ("Cardiomegaly|Edema|Fibrosis", {"Cardiomegaly", "Edema", "Lung Opacity"}),
    ],
)
def test_findings_become_labels(text, expected):
    assert positives(text) == expected


@pytest.mark.parametrize("finding", NIH["Lung Opacity"])
def test_opacity_can_be_switched_off(finding):
    assert np.isnan(nih_to_chexpert([finding], include_opacity=False)[0, CHEXPERT14.index("Lung Opacity")])


def test_what_nih_never_judges_is_blank_and_the_rest_is_not():
    marks = nih_to_chexpert(["No Finding", "Cardiomegaly|Hernia"])
    blank = [CHEXPERT14.index(label) for label in never_judged(NIH)]
    assert np.isnan(marks[:, blank]).all()
    assert not np.isnan(np.delete(marks, blank, axis=1)).any()
    assert not np.isnan(marks[:, [CHEXPERT14.index(label) for label in NIH9.labels]]).any()


def test_all_of_nih_s_names_are_known_and_rows_share_no_memory():
    assert len(NIH14.names) == 15
    marks = nih_to_chexpert(["Mass", "Mass"])
    marks[0] = 5
    assert marks[1, CHEXPERT14.index("Lung Lesion")] == 1
    assert nih_to_chexpert([]).shape == (0, 14)
