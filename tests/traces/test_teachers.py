"""The online teacher against a real HTTP server: what it sends, where, and what it makes of the answer."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from chexreason.data.image import grey_file
from chexreason.labels.catalog import CHEXPERT14
from chexreason.traces.ask import Question, Reply, Tariff, Then, Unanswered
from chexreason.traces.export import JSONL_NAME, export
from chexreason.traces.openai_teacher import OpenAITeacher
from chexreason.traces.store import ANSWERED, StoreError, Verdict, open_store
from chexreason.traces.template import TemplateTeacher
from chexreason.types import Study
from tests.support import scripted_server as s
from tests.support.asking import CONF, run, study, task

pytestmark = pytest.mark.slow
PIXELS = b"\xff\xd8jpeg"
TEXT = "These findings apply to it: Edema, Fracture.\n"


def question(image: bytes | None = PIXELS) -> Question:
    about = Study("s", "p", "d", Path(), CHEXPERT14.encode(["Edema", "Fracture"]), (True,) * 14)
    return Question(about, s.PROMPT, CHEXPERT14, TEXT, image)


def teacher(url: str, **options) -> OpenAITeacher:
    return OpenAITeacher("some-model", f"{url}/v1", Tariff(), options)


def ask(one, asked: Question) -> str:
    async def whole() -> str:
        try:
            return await one.ask(asked)
        finally:
            await one.close()

    return asyncio.run(whole())


@pytest.mark.parametrize(("config", "path"), [("openai", "/v1"), ("gemini", "/v1beta/openai/")])
def test_each_config_sends_words_and_image_and_counts_the_thoughts(config, path, monkeypatch) -> None:
    cfg = OmegaConf.create({"teacher": OmegaConf.load(CONF / "teacher" / f"{config}.yaml")})
    assert cfg.teacher.endpoint.endswith(path)
    monkeypatch.setenv(cfg.teacher.key_variable, "the-key")
    usage = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1500}  # Gemini's: 300 are thoughts

    def behave(n, asked):
        return s.Act(s.completion(s.right_answer(asked), usage=usage))

    with s.ScriptedServer(behave) as server:
        cfg.teacher.update(model="some-model", endpoint=server.url + path)
        one = instantiate(cfg.teacher, _convert_="all")
        reply = one.read(ask(one, question()))
        (asked,) = server.asked
        assert reply == Reply(s.right_answer(asked), False, False, 1000, 500)
        assert server.paths == [f"{path.rstrip('/')}/chat/completions"]
        assert server.headers[0]["authorization"] == "Bearer the-key"
        assert (asked["model"], asked["temperature"]) == ("some-model", 0.7)
        assert asked["max_tokens"] == cfg.teacher.tariff.max_tokens
        words, image = asked["messages"][0]["content"]
        assert words["text"] == TEXT
        assert image["image_url"]["url"] == f"data:image/jpeg;base64,{base64.b64encode(PIXELS).decode()}"


def test_no_image_is_sent_without_one_and_an_option_as_it_is_or_refused_with_its_name_here() -> None:
    with s.ScriptedServer() as server:
        options = {"reasoning_effort": "low", "extra_body": {"google": {"thinking_config": 1}}}
        ask(teacher(server.url, **options), question(None))
        assert "image" not in str(server.asked[0])
        assert (server.asked[0]["reasoning_effort"], server.asked[0]["google"]) == ("low", {"thinking_config": 1})
    with pytest.raises(
        ValueError, match=r"no option max_output_tokens, thinking_config .*max_tokens.*reasoning_effort"
    ):
        teacher("http://127.0.0.1:9", max_output_tokens=9, thinking_config={"thinking_budget": 9})


def test_a_redirect_is_not_followed_and_a_proxy_not_used_for_loopback(monkeypatch) -> None:
    with s.ScriptedServer() as elsewhere:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, elsewhere.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        act = s.Act(b"", 307, {"Location": elsewhere.url})
        with s.ScriptedServer(lambda n, a: act) as server:
            with pytest.raises(Unanswered) as caught:
                ask(teacher(server.url), question())
            assert (caught.value.then, len(server.asked)) == (Then.STOP, 1)
        assert elsewhere.asked == []


def test_nobody_there_is_no_bill() -> None:
    with pytest.raises(Unanswered) as caught:
        ask(teacher("http://127.0.0.1:9"), question())
    assert (caught.value.then, caught.value.billed) == (Then.AGAIN, False)


@pytest.mark.parametrize(
    ("usage", "tokens_out"),
    [
        ({"completion_tokens": 200}, 200),
        ({"completion_tokens": 200, "total_tokens": 1200}, 200),
        ({"completion_tokens": 200, "total_tokens": 1500}, 500),
        ({"completion_tokens": 0, "total_tokens": 1060, "completion_tokens_details": {"reasoning_tokens": 60}}, 60),
        ({"completion_tokens": 200, "total_tokens": 1200, "completion_tokens_details": {"reasoning_tokens": 50}}, 200),
        ({"completion_tokens": 200, "completion_tokens_details": {"reasoning_tokens": 50}}, 250),
        ({"completion_tokens": 200, "total_tokens": "many", "completion_tokens_details": 7}, 200),
        ({"total_tokens": 1200}, None),
    ],
)
def test_thoughts_are_billed_wherever_an_endpoint_counts_them(usage, tokens_out) -> None:
    body = s.completion("a", usage={"prompt_tokens": 1000, **usage}).decode()
    assert teacher("http://127.0.0.1:9").read(body).tokens_out == tokens_out


def test_refusals_and_limits_in_the_words_of_openai_and_of_gemini() -> None:
    one = teacher("http://127.0.0.1:9")
    for finish in ("content_filter", "content_filter: PROHIBITED_CONTENT", "SAFETY"):
        assert one.read(s.completion(None, finish).decode()).refused
    assert not one.read(s.completion("a", "STOP").decode()).refused
    assert one.read(s.completion("a", "MAX_TOKENS").decode()).cut
    assert one.read('[{"error": {"message": "blocked for safety"}}]').refused
    # Gemini's own form, as an earlier client kept it
    assert one.read(s.gemini("a").decode()) == Reply("a", tokens_in=1000, tokens_out=500)
    assert one.read(s.gemini("a", "SAFETY").decode()).refused
    assert one.read(s.gemini("a", "MAX_TOKENS").decode()).cut
    assert one.read('{"promptFeedback": {"blockReason": "OTHER"}}').refused
    for body in ("[]", "{}", "[7]", '{"candidates": []}', '{"promptFeedback": {}}', "null", "7", "{"):
        with pytest.raises(ValueError):  # noqa: PT011
            one.read(body)


def test_answers_that_an_earlier_gemini_client_paid_for_are_read_and_not_asked_for_again(tmp_path, image) -> None:
    studies = [study(i, image) for i in range(4)]
    words = [s.gemini(TemplateTeacher().write(one, s.PROMPT, CHEXPERT14)).decode() for one in studies]
    with s.ScriptedServer() as server, open_store(tmp_path / "t.db") as store:
        then = task(server.url)
        store.begin(then.identity | {"teacher": "GeminiTeacher"}, studies, CHEXPERT14)
        for i, body in enumerate((words[0], words[1], s.gemini("no form").decode())):
            number = store.sent(f"x/{i}", 0, "https://generativelanguage.googleapis.com", None, ("a", "b"), 0.5)
            store.ended(number, ANSWERED, 1.0, body, 0.5)
            if i != 1:  # the run was killed before it had judged this one
                reply = then.read(body)
                store.judged([Verdict(number, reply, then.judge(reply, studies[i]), 0.25)])
        assert run(store, server, studies) == ""
        assert len(server.asked) == 2  # the rejected one again, and the one nobody had asked about
        assert store.rows("SELECT usd FROM request WHERE id <= 3") == [(0.25,), (0.006,), (0.25,)]
        assert export(store, tmp_path) == 4
        rows = [json.loads(line) for line in (tmp_path / JSONL_NAME).read_text().splitlines()]
        assert [row["text"] for row in rows[:2]] == [
            json.loads(w)["candidates"][0]["content"]["parts"][1]["text"] for w in words[:2]
        ]
        with pytest.raises(StoreError, match="model: 'm' -> 'other'"):
            store.begin(task(server.url, model="other").identity, [], CHEXPERT14)


def test_an_image_is_passed_on_as_pixels_alone(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe 1950"
    Image.new("L", (400, 200), 90).save(tmp_path / "film.jpg", exif=exif)
    sent = grey_file(tmp_path / "film.jpg", 100, "JPEG", Image.Resampling.LANCZOS, quality=92)
    assert b"Jane Doe" in (tmp_path / "film.jpg").read_bytes()
    assert b"Jane Doe" not in sent
    assert Image.open(io.BytesIO(sent)).size == (100, 50)


def test_the_package_imports_without_the_clients_and_torch() -> None:
    script = """
import sys
for name in ("openai", "httpx2"): sys.modules[name] = None
import chexreason.traces.openai_teacher, chexreason.traces.collect
assert "torch" not in sys.modules
try: chexreason.traces.openai_teacher.OpenAITeacher("m", "http://127.0.0.1/v1", None)
except ModuleNotFoundError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "chexreason[teacher]" in done.stdout
