"""The review page in a real browser: keys, reloads, two readers, hostile text, a server that is away, a phone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from chexreason.parsing import Grammar
from chexreason.review.decision import OTHER, REASONS
from chexreason.traces.trace import Trace
from tests.support import chromium as driver

pytestmark = [pytest.mark.slow, pytest.mark.skipif(driver.CHROMIUM is None, reason="no Chromium on this machine")]
HOSTILE = driver.HOSTILE


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = driver.Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def served(tmp_path, serve):
    """A review of six traces for two readers; the third trace is hostile, the sixth has no image."""
    traces = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        if i != 5:
            Image.fromarray(np.full((90, 70), 40 * i, np.uint8)).save(path)
        text = f"<think>The heart is enlarged, film {i}.</think>\n<solution>Cardiomegaly</solution>"
        traces.append(
            Trace(f"s{i}", f"p{i}", "phantom", str(path), ("Cardiomegaly",), "free", HOSTILE if i == 2 else text)
        )
    return serve(tmp_path, traces, {"free": Grammar.THINK_SOLUTION})


def test_a_reader_works_through_with_the_keyboard_alone(chromium, served):
    page = chromium.page(served.address("anna"))
    page.ready()
    assert page.text("#position") == "1 of 6"
    assert page.text("#labels") == "Cardiomegaly"
    assert page.js("document.querySelector('#film').naturalWidth") == 70

    page.key("a")
    page.until("document.querySelector('#position').innerText === '2 of 6'")
    page.ready()
    page.key("e")  # first an edit that the parser refuses, then one that it takes
    page.until("document.activeElement.id === 'text'")
    page.js("document.querySelector('#text').select()")
    page.type("<think>The heart is big.</think><solution>Edema</solution>")
    page.key("Enter", modifiers=2)
    page.until("document.querySelector('#faults').innerText.includes('where the study has Cardiomegaly')")
    assert "choose a reason" in page.text("#faults")
    page.js("document.querySelector('#text').select()")
    mended = "<think>The heart is big.</think>\n<solution>Cardiomegaly</solution>"
    page.type(mended)
    page.js("document.querySelectorAll('#reasons input')[2].click()")
    page.key("Enter", modifiers=2)
    page.until("document.querySelector('#position').innerText === '3 of 6'")

    page.key("r")
    page.until("document.activeElement.name === 'reason'")
    page.key("9")
    page.key("Enter")
    page.until("document.querySelector('#faults').innerText.includes('say in the comment')")
    page.js("document.querySelector('#comment').focus()")
    page.type("artefact")
    page.key("Enter")
    page.until("document.querySelector('#position').innerText === '4 of 6'")
    assert "3 of 6 decided · 1 accepted · 1 edited · 1 rejected" in page.text("#counts")

    kept = served.desk.store.decisions("anna")
    assert [(d.study_id, d.verdict, d.reason, d.comment, d.text) for d in kept] == [
        ("s0", "accept", "", "", ""),
        ("s1", "edit", REASONS[2], "", mended),
        ("s2", "reject", OTHER, "artefact", ""),
    ]
    page.key("k")
    page.until("document.querySelector('#verdict').innerText.startsWith('Rejected')")
    page.key("u")
    page.until("document.querySelector('#verdict').innerText === ''")
    assert len(served.desk.store.decisions("anna")) == 2


def test_state_survives_a_reload_and_two_readers_do_not_meet(chromium, served):
    anna, ben = chromium.page(served.address("anna")), chromium.page(served.address("ben"))
    for page in (anna, ben, anna):
        page.ready()
        before = page.text("#position")
        page.key("a")
        page.until(f"document.querySelector('#position').innerText !== {before!r}")
    for page, decided in ((anna, 2), (ben, 1)):
        page.open(served.address("anna" if page is anna else "ben"))
        assert f"{decided} of 6 decided" in page.text("#counts")
        assert page.text("#position") == f"{decided + 1} of 6"
    assert "anna" not in ben.text("body")


def test_hostile_text_is_shown_and_not_run(chromium, served):
    page = chromium.page(served.address("anna"))
    page.key("j")
    page.key("j")
    page.until("document.querySelector('#trace').innerText.includes('onerror')")
    assert page.text("#trace") == HOSTILE
    assert page.js("document.querySelectorAll('#panel script, #panel img, #panel svg').length") == 0
    assert page.js("window.ran === undefined")
    page.ready()
    page.key("e")
    assert page.js("document.querySelector('#text').value") == HOSTILE
    page.key("Escape")
    page.key("r")
    page.until("document.activeElement.name === 'reason'")
    page.key("1")
    page.js("document.querySelector('#comment').focus()")
    page.type("<img src=x onerror='window.ran = 4'>")
    page.key("Enter")
    page.until("document.querySelector('#position').innerText !== '3 of 6'")
    assert page.js("document.activeElement.id") == "trace"  # not the field that is hidden now: it would take the keys
    page.key("k")
    page.until("document.querySelector('#verdict').innerText.includes('onerror')")
    assert page.js("window.ran === undefined")
    # Should a text ever slip through as HTML, the policy still stops it.
    page.js("document.querySelector('#trace').innerHTML = '<img src=x onerror=\"window.ran = 5\">'; 1")
    page.until("performance.getEntriesByType('resource').some((entry) => entry.name.endsWith('/x'))")
    assert page.js("new Promise((done) => setTimeout(() => done(window.ran === undefined), 200))")


def test_nothing_is_lost_while_the_server_is_away(chromium, served):
    page = chromium.page(served.address("anna"))
    page.ready()
    page.key("e")
    page.until("document.activeElement.id === 'text'")
    page.js("document.querySelector('#text').select()")
    page.type("<think>A big heart.</think>\n<solution>Cardiomegaly</solution>")
    page.js("document.querySelectorAll('#reasons input')[0].click()")
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    page.key("Enter", modifiers=2)
    page.until("document.querySelector('#faults').innerText.includes('Not saved')")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    assert "A big heart" in page.js("document.querySelector('#text').value")
    page.key("Escape")
    assert page.js("document.querySelector('#form').hidden")
    page.key("r")  # another form, and left again: what was typed into the first is still there
    page.key("Escape")
    page.key("e")
    assert "A big heart" in page.js("document.querySelector('#text').value")
    page.js("document.querySelector('#text').value = 'draft'; 1")
    page.js("document.querySelector('#text').dispatchEvent(new Event('input')); 1")
    page.js("document.querySelector('#next').click(); document.querySelector('#previous').click(); 1")
    assert page.js("document.querySelector('#text').value") == "draft"
    page.js("document.querySelector('#cancel').click(); 1")
    page.key("e")
    assert page.js("document.querySelector('#text').value").startswith("<think>The heart is enlarged")
    page.key("Escape")


def test_n_goes_to_the_next_trace_without_a_decision(chromium, served):
    page = chromium.page(served.address("anna"))
    page.ready()
    page.key("j")
    page.ready()
    page.key("a")  # 2 is decided, 1 is not
    page.until("document.querySelector('#position').innerText === '3 of 6'")
    page.key("k")
    page.key("k")
    page.key("n")
    assert page.text("#position") == "3 of 6"
    for position in (4, 5, 6, 1, 3):
        page.key("n")
        assert page.text("#position") == f"{position} of 6"


def test_a_trace_without_its_image_can_only_be_rejected(chromium, served):
    page = chromium.page(served.address("anna") + "#6")
    page.until("document.querySelector('#film-note').innerText.includes('no such file')")
    assert page.js("document.querySelector('#accept').disabled && document.querySelector('#edit').disabled")
    page.key("a")
    page.until("document.querySelector('#message').innerText.includes('image is not there')")
    page.key("r")
    page.key("8")
    page.key("Enter")
    page.until("document.querySelector('#counts').innerText.includes('1 rejected')")


def test_window_level_and_zoom_move_the_picture(chromium, served):
    page = chromium.page(served.address("anna"))
    page.ready()
    slope = "document.querySelector('#grey feFuncR').getAttribute('slope')"
    assert float(page.js(slope)) == 1
    page.js("Object.assign(document.querySelector('#window'), {value: 51}).dispatchEvent(new Event('input')); 1")
    assert float(page.js(slope)) == 5
    page.key("i")
    assert float(page.js(slope)) == -5
    page.key("+")
    assert page.text("#zoom-value") == "125 %"
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=300, y=300, deltaX=0, deltaY=-400)
    page.until("parseInt(document.querySelector('#zoom-value').innerText) > 300")
    page.key("0")
    assert float(page.js(slope)) == 1
    assert page.text("#zoom-value") == "100 %"


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_page_fits_the_screen(chromium, served, width, height):
    page = chromium.page(served.address("anna"), width, height)
    page.ready()
    assert page.js("document.documentElement.scrollWidth") <= width
    if width > 1000:
        assert page.js("document.documentElement.scrollHeight") <= height
    for action in ("accept", "edit", "reject"):
        box = page.js(f"(({{left, right, bottom}}) => ({{left, right, bottom}}))"
                      f"(document.querySelector('#{action}').getBoundingClientRect())")  # fmt: skip
        assert box["left"] >= 0
        assert box["right"] <= width
        assert box["bottom"] <= height  # reachable without scrolling
    page.js("document.querySelector('#edit').click()")
    assert page.js("document.documentElement.scrollWidth") <= width
    page.key("Escape")


def test_the_page_asks_nobody_else_and_breaks_no_policy(chromium, served):
    chromium.events.clear()
    page = chromium.page(served.address("anna"))
    page.ready()
    page.key("?")
    assert page.js("document.querySelector('#help').open")
    own = [event for event in chromium.events if event.get("sessionId") == page.session]
    asked = [e["params"]["request"]["url"] for e in own if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith((served.address("anna"), "blob:http://127.0.0.1", "data:", "about:")) for url in asked)
    errors = [e["params"] for e in own if e["method"] in {"Log.entryAdded", "Runtime.exceptionThrown"}]
    assert errors == []
