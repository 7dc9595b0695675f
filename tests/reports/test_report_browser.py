"""The cases of the report in a real browser: filters, deep links, keys, hostile text, a phone, no script at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from chexreason.reports.report import build_report
from chexreason.statistics.predictions import write_predictions as write
from chexreason.types import Prediction
from tests.support import chromium as driver

pytestmark = [pytest.mark.slow, pytest.mark.skipif(driver.CHROMIUM is None, reason="no Chromium on this machine")]

LABELS = ("Cardiomegaly", "Edema", "Pneumonia")
SHOWN = "[...document.querySelectorAll('.case')].filter((node) => !node.hidden).map((node) => node.dataset.case).sort()"
# (study, truth, what arm "base" answers, what arm "sft" answers); None breaks the format
STUDIES = (
    ("a:1", ("Edema",), ("Edema",), ("Edema",)),
    ("a:2", ("Edema",), (), ("Edema",)),
    ("a:3", ("Edema", "Pneumonia"), ("Edema",), ("Pneumonia",)),
    ("b:4", ("Pneumonia",), ("Pneumonia", "Edema"), None),
    ("b:5", (), ("Cardiomegaly",), ()),
    ("b:6 &<x>", (), (), ("Cardiomegaly", "Edema")),
)
FILTERS = (  # what is chosen, the cases that then show
    ({}, [study[0] for study in STUDIES]),
    ({"kind": "right"}, ["a:1", "a:2", "b:5", "b:6 &<x>"]),
    ({"kind": "right", "arm": "base"}, ["a:1", "b:6 &<x>"]),
    ({"kind": "missed", "arm": "base"}, ["a:2", "a:3"]),
    ({"kind": "missed", "label": "Edema"}, ["a:2", "a:3"]),
    ({"kind": "missed", "label": "Edema", "arm": "sft"}, ["a:3"]),
    ({"kind": "invented"}, ["b:4", "b:5", "b:6 &<x>"]),
    ({"kind": "invented", "label": "Edema"}, ["b:4", "b:6 &<x>"]),
    ({"kind": "broken"}, ["b:4"]),
    ({"kind": "broken", "arm": "base"}, []),
    ({"label": "Cardiomegaly"}, ["b:5", "b:6 &<x>"]),
    ({"label": "Cardiomegaly", "arm": "sft"}, ["b:6 &<x>"]),
    ({"arms": "agree"}, ["a:1"]),
    ({"arms": "differ", "label": "Edema"}, ["a:2", "a:3", "b:4", "b:6 &<x>"]),
    ({"arms": "base<sft"}, ["a:2", "b:5"]),
    ({"arms": "sft<base", "label": "Edema"}, ["a:3", "b:6 &<x>"]),
    ({"set": "a", "label": "Pneumonia"}, ["a:3"]),
)


class Report(driver.Page):
    """A tab with the report in it."""

    def open(self, address: str) -> None:
        self.call("Page.navigate", url="about:blank")  # a change of the hash alone would load nothing
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && document.querySelector('#count')?.textContent !== ''")

    def shown(self) -> list[str]:
        return self.js(SHOWN)

    def choose(self, **filters: str) -> list[str]:
        self.js("document.querySelector('#clear').click()")
        for field, value in filters.items():
            self.js(f"(s => {{ s.value = {json.dumps(value)}; if (s.selectedIndex < 0) throw s.id;"
                    f"s.dispatchEvent(new Event('change', {{bubbles: true}})); }})"
                    f"(document.querySelector('#{field}'))")  # fmt: skip
        return self.shown()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = driver.Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(chromium, built):
    context = chromium.call("Target.createBrowserContext")["browserContextId"]
    target = chromium.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
    tab = Report(chromium, chromium.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
    for domain in ("Page", "Runtime", "Log", "Network"):
        tab.call(f"{domain}.enable")
    return tab


@pytest.fixture
def desk(page, built):
    page.resize(1280, 800)
    page.open(built.as_uri())
    return page


def make(folder: Path, **options: object) -> Path:
    film = folder / "film.png"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(80 * 60, dtype=np.uint8).reshape(80, 60)).save(film)
    for column, arm in ((2, "base"), (3, "sft")):
        rows = []
        for study in STUDIES:
            answer = study[column]
            one = Prediction(study[0], f"p{study[0]}", study[0][0], "", answer or (), study[1], LABELS, image=str(film))
            rows.append(replace(one, text=driver.HOSTILE, broken="no_solution" if answer is None else None))
        write(folder / f"{arm}.jsonl", rows)
    arms = {arm: folder / f"{arm}.jsonl" for arm in ("base", "sft")}
    build_report(arms, folder / "out", title="<b>t</b>", n_resamples=10, **{"public": {"a", "b"}, **options})
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("report"))


def test_filters_show_the_studies_they_name(desk):
    for filters, expected in FILTERS:
        assert desk.choose(**filters) == expected, filters
        assert desk.text("#count").startswith(f"{len(expected)} of 6 cases")
        assert desk.js("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))") == filters


def test_an_address_brings_back_filters_and_case(page, built):
    page.resize(1280, 800)
    hostile = STUDIES[-1][0]
    page.open(f"{built.as_uri()}#{urlencode({'case': hostile, 'label': 'Edema', 'kind': 'invented'})}")
    assert page.shown() == ["b:4", hostile]
    assert page.js("document.activeElement.dataset.case") == hostile
    assert page.js("document.querySelector('[aria-current]').getBoundingClientRect().top") < 800
    assert page.js("[...document.querySelectorAll('.asked')].every((chip) => chip.dataset.label === 'Edema')")
    page.js(f"location.hash = '{urlencode({'label': 'Pneumonia'})}'; 1")
    page.until("document.querySelector('#count').textContent.startsWith('2 of 6 cases: Pneumonia')")
    assert page.js("document.querySelector('[aria-current]')") is None
    page.js("[...document.querySelectorAll('.by-label a')].find((link) => link.innerText === 'Edema').click()")
    page.until("document.querySelector('#count').textContent.includes('Edema · a')")
    assert page.shown() == ["a:1", "a:2", "a:3"]
    page.js("document.querySelector('[data-case=\"a:2\"] header a').click()")  # keeps the filters
    assert page.js("location.hash") == "#case=a%3A2&label=Edema&set=a"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("case=gone", "6 of 6 cases. No case “gone” on this page"),
        ("label=Flu&kind=odd", "6 of 6 cases. No kind “odd” on this page. No label “Flu” on this page"),
        ("case=a%3A1&kind=broken", "1 of 6 cases: broken format. Case a:1 does not fit these filters"),
        ("label=%3Cimg%20src%3Dx%20onerror%3Dran%3D1%3E", "No label “<img src=x onerror=ran=1>” on this page"),
    ],
)
def test_an_address_that_asks_for_what_is_not_there_is_answered(page, built, asked, told):
    page.open(f"{built.as_uri()}#{asked}")
    assert told in page.text("#count")


def test_the_keyboard_walks_the_cases(desk):
    order = desk.js("[...document.querySelectorAll('.case')].map((node) => node.dataset.case)")
    at = "document.activeElement.dataset.case"
    for key, place in (("j", 0), ("j", 1), ("k", 0), ("k", 0), ("j", 1)):
        desk.key(key)
        assert desk.js(at) == order[place]
    assert desk.js("new URLSearchParams(location.hash.slice(1)).get('case')") == order[1]
    desk.key("f")
    assert desk.js("document.activeElement.id") == "arm"
    desk.key("j")  # typed into the filter
    assert desk.js("document.querySelector('[aria-current]').dataset.case") == order[1]
    desk.key("Escape")
    assert desk.js("document.activeElement.tagName") == "BODY"
    desk.choose(kind="broken")
    desk.key("j")
    assert desk.js(at) == "b:4"
    desk.key("?")
    assert desk.js("document.querySelector('#help').open")
    desk.key("Escape")
    desk.until("!document.querySelector('#help').open")


def test_hostile_text_is_shown_and_not_run(desk):
    assert driver.HOSTILE in desk.js("document.querySelector('.case pre').textContent")
    assert desk.js("document.querySelectorAll('script').length") == 1
    assert desk.js("document.querySelectorAll('.case script, .case svg, .case img:not([alt])').length") == 0
    assert desk.js("document.querySelector('h1').textContent") == "<b>t</b>"
    # Should a text ever slip through as HTML, the policy still stops it.
    desk.js("document.querySelector('h1').innerHTML = '<img src=\"data:,x\" onerror=\"window.ran = 1\">';"
            "const s = document.createElement('script'); s.textContent = 'window.ran = 2'; document.body.append(s)"
            )  # fmt: skip
    assert desk.js("new Promise((done) => setTimeout(() => done(window.ran === undefined), 200))")


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_the_screen(page, built, width):
    page.resize(width, 780)
    page.open(f"{built.as_uri()}#case=b%3A4")
    assert page.js("document.documentElement.scrollWidth") <= width
    assert page.js("[...document.querySelectorAll('#filters > *, .case *')].every("
                   "(node) => node.getBoundingClientRect().right <= innerWidth)")  # fmt: skip


def test_without_scripts_the_page_is_whole(page, built):
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.call("Page.navigate", url="about:blank")
        page.call("Page.navigate", url=f"{built.as_uri()}#case=b%3A5")
        page.until("document.readyState === 'complete' && document.querySelectorAll('.case').length === 6")
        assert len(page.shown()) == 6
        assert page.js("document.querySelector('#filters').hidden")
        assert page.js("document.querySelector(':target').dataset.case") == "b:5"
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_on_paper_the_filters_go_and_the_texts_open(desk):
    desk.js("document.querySelectorAll('.case details').forEach((node) => { node.open = false; }); 1")
    desk.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert desk.js("getComputedStyle(document.querySelector('#filters')).display") == "none"
        assert desk.js("[...document.querySelectorAll('.case pre')].every((node) => node.checkVisibility())")
    finally:
        desk.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("images", ["embedded", "folder"])
def test_images_load_and_nothing_else_is_asked_for(page, tmp_path, images):
    report = make(tmp_path, images=images)
    page.browser.events.clear()
    page.resize(1280, 12_000)  # all of the page on the screen: images load as they come into view
    page.open(report.as_uri())
    page.until("[...document.images].length === 6 && [...document.images].every((image) => image.naturalWidth === 60)")
    own = [event for event in page.browser.events if event.get("sessionId") == page.session]
    asked = {e["params"]["request"]["url"] for e in own if e["method"] == "Network.requestWillBeSent"}
    assert all(url.startswith((report.parent.as_uri(), "data:", "about:")) for url in asked)
    assert [e["params"] for e in own if e["method"] in {"Log.entryAdded", "Runtime.exceptionThrown"}] == []
