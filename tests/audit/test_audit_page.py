"""The audit: its figures by hand, what it warns of, and a page that shows no more than it may."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chexreason.audit.audit_page import write_audit
from chexreason.audit.facts import set_figures, shift
from chexreason.audit.sheet import drawn_rows
from chexreason.audit.warnings import far_apart, worries
from chexreason.data.leakage import Leak
from chexreason.data.manifest import Manifest, conform
from chexreason.data.prepare import prepare_set
from chexreason.data.sources.table import TableSource
from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.labels.uncertainty import IGNORE, POSITIVES_ONLY

NAN = float("nan")
NASTY = '<script>alert("x")</script>'


def manifest(name: str, root: Path, n: int = 6, **columns) -> Manifest:
    """``n`` images of ``n`` patients, two thirds sft, the rest test; all labels absent, Fracture never judged."""
    base = {
        "study_id": [f"{name}:{i}" for i in range(n)],
        "patient_id": [f"{name}:p{i}" for i in range(n)],
        "dataset": name,
        "split": ["sft" if i < 2 * n // 3 else "test" for i in range(n)],
        "path": [f"{i}.png" for i in range(n)],
        "view": "PA",
        "age": 60,
        "sex": "F",
        **dict.fromkeys(CHEXPERT14.labels, 0.0),
        "Fracture": NAN,
    }
    return Manifest(conform(pd.DataFrame(base | columns)), {"source": "test", "name": name}, root)


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 12), 20 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_counts_marks_and_masks_are_those_counted_by_hand(root):
    marks = {"Edema": [1, 1, -1, NAN, 0, 1], "Pneumonia": [1, 0, 0, 0, 0, 1], "No Finding": [0, 1, 0, 0, 0, 0]}
    a = manifest("a", root, patient_id=[*"ppqrss"], exam_id=["e", "e", "f", "g", "", ""], **marks)
    figures = set_figures(a, IGNORE)
    assert (figures["images"], figures["patients"], figures["exams"]) == (6, 4, 3)
    assert figures["splits"]["sft"] | {"labels": 0} == {
        "images": 4, "patients": 3, "exams": 3, "without_positive": 2, "labels": 0,
        "unjudged": 0, "only_zeros": 0, "zeros_at": [],
    }  # fmt: skip
    assert figures["labels"]["Edema"] == {
        "raw": {"positive": 3, "negative": 1, "uncertain": 1, "blank": 1},
        "positive": 3, "judged": 4, "prevalence": 0.75, "negative": 1, "masked": 2,
    }  # fmt: skip
    assert figures["labels"]["Fracture"]["prevalence"] is None
    assert figures["splits"]["test"]["labels"]["Edema"] == {"positive": 1, "judged": 2, "prevalence": 0.5}
    assert figures["cooccurrence"]["Edema"]["Pneumonia"] == figures["cooccurrence"]["Pneumonia"]["Edema"] == 2
    assert figures["cooccurrence"]["Edema"]["Edema"] == 3
    assert "Fracture" not in figures["cooccurrence"]
    assert figures["contradictions"] == 1
    assert figures["labels_per_image"] == [3, 0, 3]


def test_the_policy_and_the_label_list_decide_what_is_judged(root):
    a = manifest("a", root, Edema=[1, 1, -1, NAN, 0, 1], **{"Lung Opacity": 1.0})
    lenient = set_figures(a, POSITIVES_ONLY)["labels"]
    assert (lenient["Edema"]["judged"], lenient["Edema"]["negative"]) == (6, 3)
    nine = set_figures(a, POSITIVES_ONLY, NIH9)
    assert nine["labels"]["Lung Opacity"]["judged"] == 0
    assert nine["label_list"] == "nih9"
    assert nine["labels"]["Edema"] == lenient["Edema"]


def test_studies_without_a_judged_label_and_with_zeros_alone_are_counted_and_named(root, tmp_path):
    marks = {label: [0.0, 0.0, 1.0, NAN, 0.0, 0.0] for label in CHEXPERT14} | {"Edema": [0, NAN, 1, NAN, 0, 0]}
    marks |= {"No Finding": [0.0, 0.0, 0.0, NAN, 0.0, 1.0]}  # judged in part, positive, unjudged, zeros, normal
    sets = {name: manifest(name, root, **marks) for name in ("a", "secret")}
    figures = write_audit(sets, dict.fromkeys(sets, IGNORE), tmp_path, credentialed=["secret"])
    splits = figures["sets"]["a"]["splits"]
    found = {name: (part["unjudged"], part["only_zeros"], part["zeros_at"]) for name, part in splits.items()}
    assert found == {"sft": (1, 1, ["a:0"]), "test": (0, 1, ["a:4"])}
    assert figures["sets"]["a"]["labels_per_image"][0] == 3  # not the unjudged one
    page = (tmp_path / "audit.html").read_text()
    assert "a, sft: 1 of 4 images have no judged label: no score and no training counts them." in page
    assert "a, test: 1 of 2 images (a:4) are judged on all labels and positive in none, No Finding included." in page
    assert "secret, test: 1 of 2 images (identifiers withheld) are judged" in page
    assert "secret:4" not in page + (tmp_path / "audit.json").read_text()
    nine = set_figures(sets["a"], IGNORE, NIH9)["splits"]["test"]
    assert nine["only_zeros"] == 1  # by what the set judges, whatever it is scored on
    unasked = manifest("b", root, **(marks | {"No Finding": NAN}))
    assert set_figures(unasked, IGNORE)["splits"]["test"]["only_zeros"] == 0  # nobody asked whether they are normal


def test_ages_views_and_missing_values(root):
    columns = {"age": [3, 9, 45, None, 101, 45], "view": ["PA", "PA", "AP", "", "AP", "PA"]}
    figures = set_figures(manifest("a", root, sha256=[*"xyxz", "", ""], **columns), IGNORE)
    ages = figures["ages"]
    assert (ages["known"], ages["median"], ages["min"], ages["max"], ages["minors"]) == (5, 45, 3, 101, 0.4)
    assert {decade: n for decade, n in ages["histogram"].items() if n} == {"0": 2, "40": 2, "100": 1}
    assert figures["views"] == {"PA": 3, "AP": 2, "unknown": 1}
    assert figures["missing"] == {"view": 1, "age": 1, "sex": 0, "exam_id": 6, "sha256": 2}
    assert figures["repeated_images"] == 1
    assert set_figures(manifest("a", root), IGNORE)["repeated_images"] is None


def test_shift_sets_training_at_home_against_each_test_split(root):
    a = manifest("a", root, Edema=[1, 0, 0, 0, 1, 1])
    b = manifest("b", root, split="test", Edema=[0, 1, 1, 0, 0, 0], Pneumonia=NAN)
    found = shift({"a": set_figures(a, IGNORE), "b": set_figures(b, IGNORE)}, "a")
    assert found["labels"]["Edema"]["prevalence"] == 0.25
    assert found["evaluation"]["a"]["labels"]["Edema"]["ratio"] == 4.0
    assert found["evaluation"]["b"]["labels"]["Edema"]["ratio"] == pytest.approx(4 / 3)
    assert found["evaluation"]["b"]["labels"]["Pneumonia"]["ratio"] is None


@pytest.mark.parametrize(("few", "ratio", "far"), [(5, 3.1, True), (5, 3.0, False), (4, 9.0, False), (5, 0.3, True)])
def test_prevalence_is_far_apart_only_where_there_are_enough_positives(few, ratio, far):
    assert far_apart({"positive": 50}, {"positive": few, "ratio": ratio}) is far


def test_a_clean_audit_of_large_sets_worries_about_nothing(root):
    normal = np.arange(600) % 4 == 3
    labels = {label: (normal == (label == "No Finding")).astype(float) for label in CHEXPERT14.labels}
    a = manifest("a", root, 600, sha256=[str(i) for i in range(600)], **labels)
    figures = {"home": "a", "sets": {"a": set_figures(a, IGNORE) | {"formats": {"unreadable": 0}}}}
    figures |= {"shift": shift(figures["sets"], "a"), "leaks": [], "agreement": []}
    assert worries(figures) == []


def test_the_page_says_what_to_worry_about_the_gravest_first(root, tmp_path):
    a = manifest("a", root, Edema=[1, -1, NAN, 0, 0, 1], **{"No Finding": [1, 0, 0, 0, 0, 0]})
    b = manifest("b", root, split="test", age=4, view="AP", Pneumonia=NAN, Fracture=0.0)
    leak = Leak("patient", "a", "b", ("train", "test"), 3, ("p1", "p2"), False)
    figures = write_audit({"a": a, "b": b}, {"a": POSITIVES_ONLY, "b": IGNORE}, tmp_path, leaks=[leak])
    leaked = "Leak: a (train) and b (test) share 3 of the same patients."
    assert figures["worries"][0] == {"level": "stop", "text": leaked}
    levels = [worry["level"] for worry in figures["worries"]]
    assert levels == sorted(levels, key=("stop", "warn", "note").index)
    text = "\n".join(worry["text"] for worry in figures["worries"])
    for expected in (
        "a, test: fewer than 5 positive images of Atelectasis (0)",
        "b is scored on 13 of 14 labels; masked there: Pneumonia.",
        "b scores labels that a never teaches: Fracture.",
        "median 4 years at b, 60 at a (under 18: 100% and 0%)",
        "Another mix of views at b (in brackets: a): AP 100% (0%), PA 0% (100%).",
        "a: 1 images are positive in No Finding and in a disease",
        "a: 1 marks are uncertain; policy 'positives_only' takes them as negative.",
        "a, sft: 3 images (75%) have no positive label",
    ):
        assert expected in text
    page = (tmp_path / "audit.html").read_text()
    assert page.index("share 3 of the same patients") < page.index("have no positive label")


class _Balance(HTMLParser):
    """Checks that every element that must be closed is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.open += [tag] if tag not in ("meta", "img", "br", "link") else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_self_contained_and_escapes_what_data_say(root, tmp_path):
    a = manifest("a", root, view=NASTY, study_id=[f"a:{i}{NASTY}" for i in range(6)])
    a = Manifest(a.frame, {"source": NASTY, "nested": {NASTY: [NASTY]}}, root)
    sets = {"a": a, "b": manifest("b", root, age=None)}
    licence = tmp_path / "LICENCE"
    licence.write_text(NASTY)
    more = {"title": NASTY, "declared": {"a": NASTY}, "attributions": [licence], "leaks": []}
    write_audit(sets, dict.fromkeys(sets, IGNORE), tmp_path, agreement=[("a", "b")], n_images=2, **more)
    page = (tmp_path / "audit.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert len(re.findall(r'<img src="data:image/jpeg', page)) == 2
    assert "default-src 'none'" in page
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert set(re.findall(r'href="#([^"]+)', page)) == set(re.findall(r'<h2 id="([^"]+)', page))


def test_credentialed_sets_show_neither_picture_nor_identifier(root, tmp_path):
    sets = {"a": manifest("a", root), "secret": manifest("secret", root)}
    leak = Leak("alike", "secret", "a", ("train", "test"), 1, ("secret:3",), True, (("secret:3", "a:4"),))
    write_audit(sets, dict.fromkeys(sets, IGNORE), tmp_path, credentialed=["secret"], leaks=[leak])
    written = (tmp_path / "audit.html").read_text() + (tmp_path / "audit.json").read_text()
    assert "a:1" in written
    assert not re.search(r"secret:p?\d", written)
    assert "No picture and no identifier of secret" in written
    assert "near pictures</h3>" not in written
    figures = write_audit(sets, dict.fromkeys(sets, IGNORE), tmp_path, leaks=[leak], n_images=2)
    page = (tmp_path / "audit.html").read_text()
    assert re.search(r"secret:p?\d", page)
    pair = page[page.index("1 pairs of near pictures") : page.index('id="images"')]
    assert re.findall(r'<img src="data:image/jpeg[^>]*of (\w+:\d)', pair) == ["secret:3", "a:4"]
    assert "none found" in page  # for certain
    assert "<td>not certain</td>" in page
    worry = figures["worries"][0]["text"]
    assert worry.startswith("Perhaps a leak: secret (train) and a (test) share 1 of the pictures that look alike")
    sets["secret"].frame["patient_id"] = "mimic:" + sets["secret"].frame["patient_id"]  # of a credentialed vendor
    assert write_audit(sets, dict.fromkeys(sets, IGNORE), tmp_path)["withheld"] == ["secret"]


def test_an_image_that_cannot_be_read_leaves_a_note(root, tmp_path):
    (root / "3.png").write_bytes(b"no image")
    figures = write_audit({"a": manifest("a", root)}, {"a": IGNORE}, tmp_path)
    assert "a: 1 of 6 image files drawn could not be opened." in [worry["text"] for worry in figures["worries"]]
    assert (tmp_path / "audit.html").read_text().count('class="noimg"') == 1


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows(root):
    frame = manifest("a", root, 50).frame
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    assert drawn_rows(frame, 5, 0)["study_id"].tolist() == drawn_rows(shuffled, 5, 0)["study_id"].tolist()
    assert drawn_rows(frame, 5, 0)["study_id"].tolist() != drawn_rows(frame, 5, 1)["study_id"].tolist()
    assert len(drawn_rows(frame, 99, 0)) == 50


def test_the_json_is_strict_and_the_same_data_give_the_same_bytes(root, tmp_path):
    sets = {"a": manifest("a", root, Edema=[1, 0, 1, 0, -1, NAN])}
    before = sets["a"].frame.copy(deep=True)
    for folder in ("one", "two"):
        figures = write_audit(sets, {"a": IGNORE}, tmp_path / folder, agreement=[("a", "a")], seed=3)
    for name in ("audit.html", "audit.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    pd.testing.assert_frame_equal(sets["a"].frame, before)
    text = (tmp_path / "one" / "audit.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(figures))
    assert "NaN" not in text
    assert figures["sets"]["a"]["policy"] == asdict(IGNORE)
    assert figures["sets"]["a"]["provenance"]["source"] == "test"
    assert figures["sets"]["a"]["formats"] == {"drawn": 6, "unreadable": 0, "formats": {"PNG L 12x8": 6}}


def test_an_unknown_set_is_refused_before_anything_is_written(root, tmp_path):
    with pytest.raises(ValueError, match="no set called b; it has: a"):
        write_audit({"a": manifest("a", root)}, {"a": IGNORE}, tmp_path / "out", agreement=[("a", "b")])
    assert not (tmp_path / "out").exists()


def test_blank_and_transparent_films_are_counted_and_named(tmp_path):
    film = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)).resize((64, 64))
    made = {name: Image.new("L", film.size, level) for name, level in (("zero", 0), ("white", 255), ("marked", 0))}
    made["marked"].paste(255, (0, 0, 6, 6))  # an exposure that failed, with its marker
    made |= {"deep": Image.new("I;16", film.size, 30_000), "clear": film.convert("RGBA"), "film": film}
    made["clear"].putalpha(0)
    for name, image in made.items():
        image.save(tmp_path / f"{name}.png")
    rows = [f"{name}.png,{i},1" for i, name in enumerate(made)]
    (tmp_path / "t.csv").write_text("\n".join(["path,patient_id,Edema", *rows]))
    sets = {name: prepare_set(TableSource(name, tmp_path / "t.csv"), tmp_path / name) for name in ("a", "secret")}
    figures = write_audit(sets, dict.fromkeys(sets, IGNORE), tmp_path, credentialed=["secret"])
    for name, shown in (("a", "a:zero, a:white, a:marked"), ("secret", "identifiers withheld")):
        said = [worry["text"] for worry in figures["worries"] if worry["text"].startswith(f"{name}: ")]
        assert f"{name}: 4 films are blank, black or of one grey ({shown}): they show nothing." in said
        assert f"{name}: 1 image files have transparency, which is left out: look at them." in said
    assert "secret:zero" not in (tmp_path / "audit.html").read_text() + (tmp_path / "audit.json").read_text()
