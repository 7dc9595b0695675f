"""A real HTTP server that speaks OpenAI's form and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import format_answer
from chexreason.prompts import load_prompt
from chexreason.traces.template import TemplateTeacher
from chexreason.types import Study

PROMPT = load_prompt("free_reasoning", Path(__file__).parents[2] / "conf" / "prompt")


def text_of(asked: dict[str, Any]) -> str:
    """The words of a request."""
    content = asked["messages"][0]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def findings(asked: dict[str, Any]) -> list[str]:
    return text_of(asked).split("apply to it: ")[1].split(".\n")[0].split(", ")


def right_answer(asked: dict[str, Any]) -> str:
    """What a good teacher would write: it is told the findings."""
    study = Study("s", "p", "d", Path(), CHEXPERT14.encode(findings(asked)), (True,) * 14)
    return TemplateTeacher().write(study, PROMPT, CHEXPERT14)


def reasoned(asked: dict[str, Any], think: str) -> str:
    """An answer with the right labels and other reasoning."""
    return format_answer(think, [label for label in CHEXPERT14 if label in findings(asked)])


def completion(text: str | None, finish: str = "stop", usage: dict[str, Any] | None = None, **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = usage or {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "choices": [choice], "usage": usage}
    ).encode()


def gemini(text: str, finish: str = "STOP") -> bytes:
    """A body in the form of Gemini's own interface, which old databases hold."""
    candidate = {"content": {"parts": [{"text": "hm", "thought": True}, {"text": text}]}, "finishReason": finish}
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 200, "thoughtsTokenCount": 300}
    return json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode()


class Act:
    """One response: status, body and headers, a delay before it, and whether the connection breaks in its middle."""

    def __init__(
        self, body: bytes, status: int = 200, headers: dict | None = None, delay: float = 0.0, cut: bool = False
    ):
        self.body, self.status, self.headers, self.delay, self.cut = body, status, headers or {}, delay, cut


def error(status: int, message: str = "no", code: str = "", headers: dict[str, str] | None = None) -> Act:
    return Act(
        json.dumps({"error": {"message": message, "code": code or status, "status": code}}).encode(), status, headers
    )


def good(number: int, asked: dict[str, Any]) -> Act:
    return Act(completion(right_answer(asked)))


class ScriptedServer:
    """``behave`` maps the number of a request (from 0) and its JSON to an Act; used as a context manager."""

    def __init__(self, behave: Callable[[int, dict[str, Any]], Act] = good) -> None:
        self.behave, self.asked, self.headers, self.busy, self.most_busy = behave, [], [], 0, 0
        self.times: list[float] = []
        self.paths: list[str] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that goes away is what some tests are about
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = len(self.asked)
            self.asked.append(asked)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.times.append(time.monotonic())
            self.paths.append(handler.path)
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        try:
            act = self.behave(number, asked)
            time.sleep(act.delay)
            handler.send_response(act.status)
            for name, value in {"Content-Type": "application/json", **act.headers}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(act.body)))
            handler.end_headers()
            handler.wfile.write(act.body[: len(act.body) // 2] if act.cut else act.body)
            handler.close_connection = act.cut
        except OSError:
            handler.close_connection = True  # the client went away
        finally:
            with self._lock:
                self.busy -= 1

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
