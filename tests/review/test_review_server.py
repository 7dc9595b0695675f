"""The review over HTTP, without a browser: who is let in, what is kept, what is refused."""

from __future__ import annotations

import http.client
import io
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexreason import review
from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import Grammar
from chexreason.review.decision import OTHER, REASONS
from chexreason.review.desk import Desk
from chexreason.review.server import BODY_LIMIT, ReviewServer
from chexreason.traces.trace import Trace

GOOD = "<think>Wet lungs.</think>\n<solution>Edema</solution>"
FOLDER = Path(review.__file__).parent
GRAMMARS = {"free": Grammar.THINK_SOLUTION, "only": Grammar.SOLUTION_ONLY}


@pytest.fixture(scope="module")
def server(tmp_path_factory, serve):
    folder = tmp_path_factory.mktemp("review")
    Image.fromarray(np.full((3000, 30), 70, np.uint8)).save(folder / "0.png")
    (folder / "2.png").write_bytes(b"not a picture")
    traces = [
        Trace(
            "s0", "p0", "d", str(folder / "0.png"), ("Edema",), "free", "<think>Dry.</think><solution>Edema</solution>"
        ),
        Trace("s1", "p1", "d", str(folder / "1.png"), ("Edema",), "only", "<solution>Fracture</solution>"),
        Trace("s2", "p2", "d", str(folder / "2.png"), ("Edema",), "free", "</script><script>alert(1)</script>"),
    ]
    return serve(folder, traces, GRAMMARS)


def ask(server, path, method="GET", body=None, reader="anna", **headers):
    """Status, headers and body of a request; ``path`` starts after the token."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    where = f"/{server.links[reader]}/{path}" if reader else path
    connection.request(method, where, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, reply.headers, content


def post(server, position, said, reader="anna", **headers):
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    headers = {"Content_Type": "application/json", **headers}
    status, _, content = ask(server, f"decision/{position}", "POST", body, reader, **headers)
    return status, json.loads(content)


def sha(server, i=0):
    return server.desk.sample[i].text_sha256


def test_the_page_and_its_files_come_with_their_policy(server):
    for place, kind in (("", "text/html"), ("page.js", "text/javascript"), ("viewer.js", "text/javascript"),
                        ("page.css", "text/css"), ("icon.svg", "image/svg")):  # fmt: skip
        status, headers, content = ask(server, place)
        assert status == 200
        assert content == (FOLDER / (place or "page.html")).read_bytes()
        assert headers["Content-Type"].startswith(kind)
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' blob:;")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_never_makes_html_of_text():
    scripts = (FOLDER / "page.js").read_text() + (FOLDER / "viewer.js").read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http:", "https:"):
        assert word not in scripts


@pytest.mark.parametrize("path", ["/", "/x/", "/../../etc/passwd", "/%s", "//", "/" + "a" * 50 + "/state"])
def test_without_the_token_there_is_nothing(server, path):
    status, headers, content = ask(server, path, reader=None)
    assert status == 403
    assert b"s0" not in content
    assert "Content-Security-Policy" in headers


def test_a_token_is_whole_and_its_own(server):
    token = server.links["anna"]
    for wrong in (token[:-1], token + "a", token.swapcase(), "é"):
        assert server.reader(wrong) is None
    assert server.reader(token) == "anna"
    assert server.reader(server.links["ben"]) == "ben"


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:9", 200), ("localhost:8765", 200), ("[::1]:8765", 200), ("10.0.0.7:80", 200), ("evil.example", 421),
     ("evil.example:8765", 421), ("localhost.evil.example", 421), ("localhost@evil.example", 421),
     ("evil@localhost", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("[::1", 421)],
)  # fmt: skip
def test_a_name_that_was_rebound_is_refused(server, host, status):
    assert ask(server, "state", Host=host)[0] == status


def test_other_sites_can_neither_post_nor_read(server):
    said = {"verdict": "accept", "text_sha256": sha(server)}
    home = f"127.0.0.1:{server.server_port}"
    for headers in (
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
    ):  # fmt: skip
        assert post(server, 0, said, "ben", **headers)[0] == 403
        assert ask(server, "image/0", **headers)[0] == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert post(server, 0, said, "ben", Content_Type=kind)[0] == 415
    assert server.desk.store.decisions("ben") == []
    assert post(server, 0, said, "ben", Origin=f"http://{home}", Sec_Fetch_Site="same-origin")[0] == 200
    assert post(server, 0, {"verdict": "withdrawn", "text_sha256": sha(server)}, "ben")[0] == 200


def test_the_picture_is_shown_small_enough_and_its_absence_explained(server):
    status, headers, content = ask(server, "image/0")
    image = Image.open(io.BytesIO(content))
    assert (status, headers["Content-Type"], image.mode, image.height) == (200, "image/png", "L", 2048)
    assert np.asarray(image).tolist()[5][5] == 70
    assert "no such file" in json.loads(ask(server, "image/1")[2])["faults"][0]
    status, _, content = ask(server, "image/2")
    assert status == 404
    assert b"cannot be shown" in content
    assert b"/2.png" not in content  # a path of the machine is nobody's business
    for place in ("image/3", "image/0/..", "image/", "x.html", "image/0x1"):
        assert ask(server, place)[0] == 404


def test_a_decision_is_kept_and_each_reader_sees_his_own(server):
    status, said = post(server, 0, {"verdict": "accept", "text_sha256": sha(server), "reason": "junk", "text": "junk"})
    assert status == 200
    assert said["decision"] | {"decided_at": ""} == {
        "verdict": "accept", "reason": "", "comment": "", "text": "", "decided_at": "",
    }  # fmt: skip
    state = {name: json.loads(ask(server, "state", reader=name)[2]) for name in ("anna", "ben")}
    assert state["anna"]["cases"][0]["decision"] == said["decision"]
    assert state["ben"]["cases"][0]["decision"] is None
    assert state["ben"]["reviewer"] == "ben"
    assert "image_path" not in state["ben"]["cases"][0]
    assert "anna" not in json.dumps(state["ben"])
    assert post(server, 0, {"verdict": "withdrawn", "text_sha256": sha(server)}) == (200, {"decision": None})


EDIT = {"verdict": "edit", "reason": REASONS[0]}


@pytest.mark.parametrize(
    ("position", "said", "fault"),
    [
        (0, {"verdict": "maybe"}, "unknown verdict 'maybe'"),
        (0, {"verdict": "reject"}, "choose a reason"),
        (0, {"verdict": "reject", "reason": "my own"}, "choose a reason"),
        (0, {"verdict": "reject", "reason": OTHER, "comment": "  "}, "say in the comment"),
        (0, {"verdict": "reject", "reason": REASONS[0], "comment": "x" * 2001}, "2,001 characters"),
        (0, {"verdict": "reject", "reason": REASONS[0], "comment": "\ud800"}, "half a Unicode"),
        (0, {"verdict": "accept", "text_sha256": "older"}, "has changed since"),
        (0, {**EDIT, "text": "<think>Dry.</think><solution>Edema</solution>\n"}, "as it was"),
        (0, {**EDIT, "text": ""}, "format is broken (no think)"),
        (0, {**EDIT, "text": "<think>Wet.</think>"}, "<think>…</think><solution>…</solution>"),
        (0, {**EDIT, "text": "<think> </think><solution>Edema</solution>"}, "no reasoning left"),
        (0, {**EDIT, "text": GOOD + " And more."}, "text outside the tags"),
        (0, {**EDIT, "text": GOOD.replace("Edema", "Edema, Gout")}, "unknown or repeated labels: 'Gout'"),
        (0, {**EDIT, "text": GOOD.replace("Edema", "Fracture")}, "says Fracture where the study has Edema"),
        (0, {**EDIT, "text": GOOD + "x" * 20_000}, "characters, at most 20,000"),
        (0, {**EDIT, "text": "<think>\udfff</think><solution>Edema</solution>"}, "half a Unicode"),
        (1, {**EDIT, "text": GOOD}, "unexpected think"),
    ],
)
def test_what_cannot_be_learned_from_is_not_kept(server, position, said, fault):
    before = server.desk.store.decisions()
    status, reply = post(server, position, {"text_sha256": sha(server, position), **said})
    assert status == 422
    assert any(fault in one for one in reply["faults"]), reply
    assert server.desk.store.decisions() == before


def test_an_edit_in_the_prompts_own_format_is_kept(server):
    for position, text in ((0, GOOD.replace("\n", "\r\n")), (1, "<solution>edema</solution>")):
        status, reply = post(server, position, {**EDIT, "text": text, "text_sha256": sha(server, position)}, "ben")
        assert status == 200, reply
        assert reply["decision"]["text"] == text.replace("\r\n", "\n")
    assert [d.text for d in server.desk.store.decisions("ben")] == [GOOD, "<solution>edema</solution>"]


@pytest.mark.parametrize("body", [b"", b"{half", b"[1]", b'"x"', b"\xff", b'{"verdict": 1}', b"[" * 100_000])
def test_a_damaged_message_is_refused(server, body):
    assert post(server, 0, body)[0] == 400


def test_bodies_are_bounded_before_they_are_read(server):
    token = server.links["anna"]
    for headers, status in (
        (f"Content-Length: {BODY_LIMIT + 1}", 413), ("Content-Length: -5", 411), ("X-Nothing: 1", 411),
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as raw:
            raw.sendall(
                f"POST /{token}/decision/0 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"{headers}\r\n\r\n".encode()
            )
            assert f" {status} ".encode() in raw.recv(100)


def test_a_disk_that_is_full_is_told_to_the_reader(server, monkeypatch):
    def full(decision):
        raise OSError("cannot use the review: database or disk is full")

    monkeypatch.setattr(server.desk.store, "add", full)
    status, reply = post(server, 0, {"verdict": "accept", "text_sha256": sha(server)})
    assert (status, reply["faults"][0][:10]) == (503, "not saved:")
    monkeypatch.setattr(server.desk.store, "add", lambda decision: 1 / 0)
    assert post(server, 0, {"verdict": "accept", "text_sha256": sha(server)})[0] == 500
    assert ask(server, "state")[0] == 200


def test_the_log_holds_no_token(server, capfd):
    ask(server, "state")
    ask(server, "/wrong/state", reader=None)
    out, err = capfd.readouterr()
    assert server.links["anna"] not in out + err


def test_a_port_in_use_says_so(server):
    with pytest.raises(OSError, match=rf"port {server.server_port}: .*choose another with port="):
        ReviewServer(server.desk, {}, "127.0.0.1", server.server_port)


def test_the_desk_refuses_a_prompt_or_label_it_does_not_know(server):
    sample = server.desk.sample
    with pytest.raises(ValueError, match=r"no answer format is known for the prompts \['free'\]"):
        Desk(sample, server.desk.store, CHEXPERT14, {"only": Grammar.SOLUTION_ONLY})
