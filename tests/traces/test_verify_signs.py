"""The signs in a trace: what shows a finding counts, and what denies it or only looks like it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import format_answer
from chexreason.traces.ask import Reply
from chexreason.traces.verify import verify
from chexreason.types import Study


@pytest.mark.parametrize(
    ("said", "positive", "missing"),
    [
        ("The costophrenic angle is blunted.", "Pleural Effusion", False),
        ("There is no effusion and the angles are sharp.", "Pleural Effusion", True),
        ("No effusion is seen on the left, but the right angle is blunted.", "Pleural Effusion", False),
        ("Pleural fluid is not seen.", "Pleural Effusion", True),
        ("An effusion is unlikely.", "Pleural Effusion", True),
        ("10. Pleura: effusion on the left; no pneumothorax.", "Pleural Effusion", False),
        ("10. Effusion: absent.", "Pleural Effusion", True),
        ("A pleural line is seen without lung markings beyond it.", "Pneumothorax", False),
        ("There is no abnormality.", "No Finding", False),
        ("The lungs are dense.", "No Finding", True),
        ("A tube ends above the carina.", "Support Devices", False),
        # A denial ends where the next statement begins.
        ("No pneumothorax is seen, and the right angle is blunted by an effusion.", "Pleural Effusion", False),
        ("There is no consolidation, and the cardiac silhouette is enlarged.", "Cardiomegaly", False),
        ("There is no focal consolidation, yet there is interstitial edema.", "Edema", False),
        ("There is no fracture and there is a moderate effusion.", "Pleural Effusion", False),
        ("There is no fracture, and an effusion is seen.", "Pleural Effusion", False),
        ("There is no volume loss, so the opacity is consolidation.", "Consolidation", False),
        ("Without any sign of pneumothorax, the main point is an effusion.", "Pleural Effusion", False),
        ("Pleura: no pneumothorax, small left effusion.", "Pleural Effusion", False),
        ("There is no pneumothorax (upright film). The left angle is blunted.", "Pleural Effusion", False),
        ("The left diaphragm is not visible due to a moderate effusion.", "Pleural Effusion", False),
        ("The left angle is not sharp, suggesting a small effusion.", "Pleural Effusion", False),
        ("No abnormality except a right effusion.", "Pleural Effusion", False),
        ("There is no doubt that the heart is enlarged.", "Cardiomegaly", False),
        ("The heart is not only enlarged but globular.", "Cardiomegaly", False),
        ("A feeding tube is seen and its tip is not visible.", "Support Devices", False),
        ("An effusion is present and the right diaphragm is not visible.", "Pleural Effusion", False),
        ("A nodule is seen that is not calcified.", "Lung Lesion", False),
        ("Lung markings are absent beyond a thin pleural line.", "Pneumothorax", False),
        ("A pneumothorax is seen where lung markings are absent.", "Pneumothorax", False),
        ("There is no pneumothorax, and no effusion.", "Pleural Effusion", True),
        ("There is no pneumothorax, effusion, and consolidation.", "Consolidation", True),
        ("An effusion cannot be seen.", "Pleural Effusion", True),
        ("I cannot see an effusion.", "Pleural Effusion", True),
        ("An effusion isn't present.", "Pleural Effusion", True),
        ("The image doesn't show an effusion.", "Pleural Effusion", True),
        ("This favors consolidation rather than atelectasis.", "Atelectasis", True),
        ("Rather than infection, edema is the best fit.", "Edema", False),
        ("I see not only an effusion but more.", "Pleural Effusion", False),
        # A sign is no word that happens to look like it, and none of health.
        ("These findings lead to the conclusion.", "Support Devices", True),
        ("ECG leads overlie the chest.", "Support Devices", False),
        ("The fissure lines are consistent with tubular structures that are clipped.", "Support Devices", True),
        ("2. Lines: reviewed.", "Support Devices", True),
        ("A left jugular line ends in the atrium.", "Support Devices", False),
        ("A line ends over the SVC.", "Support Devices", False),
        ("The next step of the review is the bones.", "Fracture", True),
        ("The next step in the review of ribs follows.", "Fracture", True),
        ("One step in the reading is to follow each rib.", "Fracture", True),
        ("There is a step in the outline of the left sixth rib.", "Fracture", False),
        ("The cardiothoracic ratio is normal at 0.45.", "Cardiomegaly", True),
        ("The cardiothoracic ratio is below 0.5.", "Cardiomegaly", True),
        ("The cardiothoracic ratio is about 60 %.", "Cardiomegaly", False),
        ("The heart is not enlarged.", "Cardiomegaly", True),
        ("The heart is normal and the mediastinum is wide.", "Cardiomegaly", True),
        ("The heart and the mediastinum are enlarged.", "Cardiomegaly", False),
        ("There is a large mass behind the heart.", "Cardiomegaly", True),
        ("The mediastinum isn't wide.", "Enlarged Cardiomediastinum", True),
        ("There is an enlarged heart with a normal mediastinum.", "Enlarged Cardiomediastinum", True),
        ("The heart is enlarged and the mediastinum is normal.", "Enlarged Cardiomediastinum", True),
        ("The heart shadow is normal.", "Lung Opacity", True),
        ("The density of the bones is normal.", "Lung Opacity", True),
        ("The heart shadow is wide.", "Lung Opacity", True),
        ("6. Airspaces: reviewed.", "Lung Opacity", True),
        ("The airspaces are clear.", "Lung Opacity", True),
        ("There is dense breast tissue without opacity.", "Consolidation", True),
        ("The costophrenic angle is not obscured.", "Pleural Effusion", True),
        ("9. Focal shadows: reviewed.", "Lung Opacity", True),
        ("There is a shadow in the left lung.", "Lung Opacity", False),
        ("8. Inflammation: reviewed.", "Pneumonia", True),
        ("The interstitial markings are normal.", "Edema", True),
        ("The thoracic cavity is symmetrical, which coincides with a rounded apex.", "Lung Lesion", True),
        ("A thick-walled cavity is seen.", "Lung Lesion", False),
        ("There is a displaced fracture.", "Atelectasis", True),
        ("The trachea is not shifted.", "Atelectasis", True),
        ("The trachea is shifted to the left.", "Atelectasis", False),
        ("There are no abnormal lung markings.", "Pneumothorax", True),
        ("The lungs are not clear.", "No Finding", True),
        ("The lungs do not look entirely clear.", "No Finding", True),
        ("The heart is abnormal and clearly enlarged.", "No Finding", True),
        ("The heart is not enlarged and normal in shape.", "No Finding", False),
        ("There is no effusion and the lungs are clear.", "No Finding", False),
        ("There is no radiographic evidence of acute disease.", "No Finding", False),
    ],
)
def test_every_finding_needs_a_sign_that_is_affirmed(said: str, positive: str, missing: bool) -> None:
    one = Study("x/0", "x/p", "x", Path("x.png"), CHEXPERT14.encode([positive]), (True,) * 14, view="PA")
    answer = format_answer(f"The trachea is in the midline. {said}", [positive])
    faults = verify(Reply(answer), one, CHEXPERT14, "think_solution", (1, 400))
    assert [fault.rule for fault in faults] == (["sign missing"] if missing else [])
