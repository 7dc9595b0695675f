"""Phrase bank: how each finding is said. Data only.

Slots: ``{sev}`` a severity word, ``{side}`` left / right / bilateral, ``{at}`` on the left / on the right / on each
side, ``{lung}`` the left lung / the right lung / both lungs / the lungs. Each slot is empty (``{lung}``: "the lungs")
where the study does not say. Each finding keeps to its own sign words, so that a text about one never claims another.
"""

from __future__ import annotations

from dataclasses import dataclass

GRADES = ("mild", "moderate", "marked")
SIZES = ("small", "moderate", "large")
UNGRADED = ("", "", "")


@dataclass(frozen=True, slots=True)
class Phrases:
    """The words for one label.

    ``names`` are noun phrases that follow "there is", ``signs`` full positive sentences, ``absent`` full negative
    sentences, ``nouns`` what follows "no"; ``grades`` are the words for low, middle and high severity.
    """

    names: tuple[str, ...]
    signs: tuple[str, ...]
    absent: tuple[str, ...]
    nouns: tuple[str, ...]
    grades: tuple[str, str, str] = GRADES


FINDINGS: dict[str, Phrases] = {
    "Support Devices": Phrases(
        names=("a support device", "a medical device", "support hardware"),
        signs=(
            "A support device is in place.",
            "A medical device projects over the chest.",
            "Support hardware overlies the chest.",
            "The sharp bright outline of a medical device is seen.",
        ),
        absent=("No support device is seen.", "There is no medical device.", "No support hardware is in place."),
        nouns=("support device", "medical device"),
        grades=UNGRADED,
    ),
    "Enlarged Cardiomediastinum": Phrases(
        names=("{sev} mediastinal widening", "a wide mediastinum", "{sev} widening of the upper mediastinum"),
        signs=(
            "There is {sev} widening of the mediastinum.",
            "The mediastinum is wide.",
            "The upper mediastinal contour shows {sev} widening.",
            "The central shadow shows {sev} mediastinal widening.",
        ),
        absent=(
            "The mediastinum is normal in width.",
            "There is no mediastinal widening.",
            "The mediastinum is not wide.",
        ),
        nouns=("mediastinal widening", "widening of the mediastinum"),
    ),
    "Cardiomegaly": Phrases(
        names=("{sev} cardiomegaly", "an enlarged heart", "{sev} cardiac enlargement"),
        signs=(
            "The heart is enlarged.",
            "There is {sev} cardiomegaly.",
            "The heart shadow shows {sev} cardiac enlargement.",
            "The heart takes up more than half of the chest width, a sign of {sev} cardiomegaly.",
        ),
        absent=("The heart is normal in size.", "There is no cardiomegaly.", "The heart is not enlarged."),
        nouns=("cardiomegaly", "cardiac enlargement"),
    ),
    "Lung Opacity": Phrases(
        names=("{sev} {side} lung opacity", "{sev} hazy opacity{at}", "{sev} opacity in {lung}"),
        signs=(
            "There is {sev} opacity in {lung}.",
            "A {sev} hazy opacity is seen{at}.",
            "{sev} {side} lung opacity is present.",
            "A bright hazy opacity is projected over {lung}.",
        ),
        absent=("No lung opacity is seen.", "There is no hazy opacity.", "The lungs show no opacity."),
        nouns=("lung opacity", "hazy opacity"),
    ),
    "Consolidation": Phrases(
        names=("{sev} {side} consolidation", "{sev} consolidation{at}", "dense consolidation in {lung}"),
        signs=(
            "There is {sev} consolidation in {lung}.",
            "Air bronchograms within a dense area point to {sev} {side} consolidation.",
            "{sev} dense consolidation is seen{at}.",
            "Dense filling of the airspaces in {lung} is in keeping with consolidation.",
        ),
        absent=("No consolidation is seen.", "There is no dense consolidation.", "The lungs show no consolidation."),
        nouns=("consolidation", "dense consolidation"),
    ),
    "Atelectasis": Phrases(
        names=("{sev} {side} atelectasis", "{sev} volume loss{at}", "band-like atelectasis in {lung}"),
        signs=(
            "There is {sev} {side} atelectasis.",
            "{sev} volume loss is seen in {lung}.",
            "A thin linear band of atelectasis is seen{at}.",
            "Crowded vessels point to {sev} {side} volume loss.",
        ),
        absent=("No atelectasis is seen.", "There is no volume loss.", "The lungs show no atelectasis."),
        nouns=("atelectasis", "volume loss"),
    ),
    "Edema": Phrases(
        names=("{sev} pulmonary edema", "{sev} vascular congestion", "{sev} interstitial edema"),
        signs=(
            "There is {sev} pulmonary edema.",
            "Thick vessels around the hila point to {sev} vascular congestion.",
            "Fine interstitial lines suggest {sev} pulmonary edema.",
            "The vessels are blurred, in keeping with {sev} interstitial edema.",
        ),
        absent=("No pulmonary edema is seen.", "There is no vascular congestion.", "The vessels show no edema."),
        nouns=("pulmonary edema", "vascular congestion"),
    ),
    "Pneumonia": Phrases(
        names=("{sev} {side} pneumonia", "{sev} infection in {lung}", "likely pneumonia{at}"),
        signs=(
            "A patchy area in {lung} suggests {sev} pneumonia.",
            "The pattern favors {sev} {side} pneumonia.",
            "Patchy change{at} is in keeping with infection.",
            "An ill-defined patch in {lung} points to {sev} infection.",
        ),
        absent=("No pneumonia is seen.", "There is no sign of infection.", "The lungs show no pneumonia."),
        nouns=("pneumonia", "sign of infection"),
    ),
    "Lung Lesion": Phrases(
        names=("a {sev} lung nodule{at}", "a {sev} nodular lesion{at}", "a {sev} round lesion{at}"),
        signs=(
            "There is a {sev} lung nodule{at}.",
            "A {sev} round lesion is seen{at}.",
            "A focal round shadow{at} is in keeping with a {sev} nodule.",
            "A {sev} well-defined lung lesion is present{at}.",
        ),
        absent=("No lung nodule is seen.", "There is no focal lesion.", "The lungs show no nodule or lesion."),
        nouns=("lung nodule", "lung lesion"),
        grades=("small", "moderate-sized", "large"),
    ),
    "Pneumothorax": Phrases(
        names=("a {sev} pneumothorax{at}", "{sev} {side} pneumothorax", "free pleural air{at}"),
        signs=(
            "There is a {sev} pneumothorax{at}.",
            "A dark zone of free air at the edge of {lung} points to a {sev} pneumothorax.",
            "{sev} {side} pneumothorax is present.",
            "A thin pleural edge with dark air beyond it{at} is a sign of {sev} pneumothorax.",
        ),
        absent=("No pneumothorax is seen.", "There is no free pleural air.", "The lung edges show no pneumothorax."),
        nouns=("pneumothorax", "free pleural air"),
        grades=SIZES,
    ),
    "Pleural Effusion": Phrases(
        names=("a {sev} pleural effusion{at}", "{sev} {side} pleural effusion", "{sev} pleural fluid{at}"),
        signs=(
            "There is a {sev} pleural effusion{at}.",
            "The costophrenic angle is blunted{at} by {sev} pleural fluid.",
            "{sev} {side} pleural effusion is present.",
            "Fluid rises along the chest wall{at}, in keeping with a {sev} effusion.",
        ),
        absent=("No pleural effusion is seen.", "There is no pleural fluid.", "The pleural spaces show no effusion."),
        nouns=("pleural effusion", "pleural fluid"),
        grades=SIZES,
    ),
    "Pleural Other": Phrases(
        names=("{sev} pleural thickening{at}", "{sev} {side} pleural thickening", "a pleural plaque{at}"),
        signs=(
            "There is {sev} pleural thickening{at}.",
            "A bright band along the chest wall{at} is in keeping with pleural thickening.",
            "{sev} {side} pleural thickening is present.",
            "A {sev} pleural plaque is seen{at}.",
        ),
        absent=("No pleural thickening is seen.", "There is no pleural plaque.", "The pleura shows no thickening."),
        nouns=("pleural thickening", "pleural plaque"),
    ),
    "Fracture": Phrases(
        names=("a rib fracture{at}", "a fracture{at}", "a broken rib{at}"),
        signs=(
            "There is a rib fracture{at}.",
            "A step in the outline of a rib{at} points to a fracture.",
            "One rib is broken{at}.",
            "A gap in a rib{at} is in keeping with a fracture.",
        ),
        absent=("No rib fracture is seen.", "There is no fracture.", "The bones show no fracture."),
        nouns=("rib fracture", "fracture"),
        grades=UNGRADED,
    ),
    "No Finding": Phrases(
        names=("a normal chest", "a clear chest", "normal anatomy"),
        signs=(
            "The lungs are clear and the study is normal.",
            "The lungs are clear and well expanded.",
            "The heart, lungs and pleura are within normal limits.",
            "No sign of disease is seen and the lungs are clear.",
        ),
        absent=("The study is not normal.", "The chest is not clear.", "The image is not normal."),
        nouns=("normal chest", "clear chest"),
        grades=UNGRADED,
    ),
}
