"""Both online teachers against a real HTTP server: what they send, where, and what they make of the answer."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from chexreason.labels.catalog import CHEXPERT14
from chexreason.traces.ask import Question, Reply, Tariff, Then, Unanswered
from chexreason.traces.budget import Budget
from chexreason.traces.collect import Limits, collect
from chexreason.traces.gemini_teacher import GeminiTeacher
from chexreason.traces.instruction import Instruction, jpeg
from chexreason.traces.openai_teacher import OpenAITeacher
from chexreason.traces.store import open_store
from chexreason.traces.task import Task
from chexreason.types import Study
from tests.support import scripted_server as s

pytestmark = pytest.mark.slow
TEACHERS = {"openai": (OpenAITeacher, "/v1"), "gemini": (GeminiTeacher, "")}
CONF = Path(__file__).parents[2] / "conf"
ARM = Instruction(**yaml.safe_load((CONF / "teacher_instruction" / "free_reasoning.yaml").read_text()))
TEXT = "These findings apply to it: Edema, Fracture.\n"


def question(image: bytes | None = b"\xff\xd8jpeg") -> Question:
    study = Study("s", "p", "d", Path(), CHEXPERT14.encode(["Edema", "Fracture"]), (True,) * 14)
    return Question(study, s.PROMPT, CHEXPERT14, TEXT, image)


def teacher(kind: str, url: str, **options):
    made, path = TEACHERS[kind]
    return made("some-model", url + path, Tariff(), options)


def ask(one, asked: Question) -> str:
    async def whole() -> str:
        try:
            return await one.ask(asked)
        finally:
            await one.close()

    return asyncio.run(whole())


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_words_and_the_image_are_sent_and_the_answer_is_read(kind) -> None:
    with s.ScriptedServer() as server:
        one = teacher(kind, server.url, temperature=0.25)
        reply = one.read(ask(one, question()))
        assert reply.text == s.right_answer(server.asked[0])
        assert (reply.refused, reply.cut, reply.tokens_in) == (False, False, 1000)
        assert reply.tokens_out == (500 if kind == "gemini" else 200)  # thoughts are billed
        assert "0.25" in str(server.asked[0])
        sent = str(server.asked[0])
        assert (
            base64.b64encode(b"\xff\xd8jpeg").decode() in sent
            or base64.urlsafe_b64encode(b"\xff\xd8jpeg").decode() in sent
        )


@pytest.mark.parametrize("kind", TEACHERS)
def test_no_image_is_sent_where_none_is_given(kind) -> None:
    with s.ScriptedServer() as server:
        ask(teacher(kind, server.url), question(None))
        assert "image" not in str(server.asked[0])


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize(
    ("status", "then"), [(401, Then.STOP), (429, Then.AGAIN), (500, Then.AGAIN), (413, Then.SMALLER), (400, Then.LEAVE)]
)
def test_a_status_is_passed_on_once_with_its_pause(kind, status, then) -> None:
    act = s.error(status, headers={"Retry-After": "7"})
    with s.ScriptedServer(lambda n, a: act) as server:
        with pytest.raises(Unanswered) as caught:
            ask(teacher(kind, server.url), question())
        assert (caught.value.then, caught.value.wait, len(server.asked)) == (then, 7.0, 1)


BROKEN = {
    "half a JSON": lambda body: s.Act(body[:99]),
    "nested JSON": lambda body: s.Act(b"[" * 100_000),
    "a nested error": lambda body: s.Act(b"[" * 100_000, 500),
    "not Unicode": lambda body: s.Act(b"\xff\xfe" + body),
    "a page": lambda body: s.Act(b"<html>busy</html>", headers={"Content-Type": "text/html"}),
    "nothing": lambda body: s.Act(b""),
    "a cut connection": lambda body: s.Act(body, cut=True),
}


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_body_is_no_answer_and_the_next_one_counts(kind, how, tmp_path, image) -> None:
    def behave(n, asked):
        right = s.good(n, asked)
        return BROKEN[how](right.body) if n == 0 else right

    study = replace(question().study, image=image)
    with s.ScriptedServer(behave) as server, open_store(tmp_path / "t.db") as store:
        task = Task(teacher(kind, server.url), ARM, s.PROMPT, CHEXPERT14)
        store.begin(task.identity, [study], CHEXPERT14)
        limits = Limits(pause=0.001, longest_pause=0.01, seconds=5.0)
        assert collect(task, store, [study], limits, Budget(0, 0, Tariff(), server.url), lambda *_: None) == ""
        assert (len(server.asked), store.progress()["s"].accepted) == (2, True)


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_redirect_is_not_followed_and_a_proxy_not_used_for_loopback(kind, monkeypatch) -> None:
    with s.ScriptedServer() as elsewhere:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, elsewhere.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        act = s.Act(b"", 307, {"Location": elsewhere.url})
        with s.ScriptedServer(lambda n, a: act) as server:
            with pytest.raises(Unanswered) as caught:
                ask(teacher(kind, server.url), question())
            assert (caught.value.then, len(server.asked)) == (Then.STOP, 1)
        assert elsewhere.asked == []


@pytest.mark.parametrize("kind", TEACHERS)
def test_nobody_there_is_no_bill(kind) -> None:
    with pytest.raises(Unanswered) as caught:
        ask(teacher(kind, "http://127.0.0.1:9"), question())
    assert (caught.value.then, caught.value.billed) == (Then.AGAIN, False)


def test_gemini_refusals_and_limits() -> None:
    one = teacher("gemini", "http://127.0.0.1:9")
    assert one.read(s.gemini("a", "SAFETY").decode()).refused
    assert one.read(s.gemini("a", "MAX_TOKENS").decode()) == Reply("a", cut=True, tokens_in=1000, tokens_out=500)
    assert one.read('{"promptFeedback": {"blockReason": "OTHER"}}').refused
    for body in ("[]", "{}", '{"candidates": []}', "null", "{"):
        with pytest.raises(ValueError):  # noqa: PT011
            one.read(body)
    asyncio.run(one.close())


def test_an_image_is_passed_on_as_pixels_alone(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe 1950"
    Image.new("L", (400, 200), 90).save(tmp_path / "film.jpg", exif=exif)
    sent = jpeg(tmp_path / "film.jpg", 100)
    assert b"Jane Doe" in (tmp_path / "film.jpg").read_bytes()
    assert b"Jane Doe" not in sent
    assert Image.open(io.BytesIO(sent)).size == (100, 50)


def test_the_package_imports_without_the_clients() -> None:
    script = """
import sys
for name in ("openai", "google.genai", "httpx2"): sys.modules[name] = None
import chexreason.traces.openai_teacher, chexreason.traces.gemini_teacher, chexreason.traces.collect
try: chexreason.traces.openai_teacher.OpenAITeacher("m", "http://127.0.0.1/v1", None)
except ModuleNotFoundError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "chexreason[teacher]" in done.stdout
