"""The review over HTTP: standard library only, every request checked for host, origin and the reader's token."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import re
import socket
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from chexreason.data.image import ImageError
from chexreason.review.desk import Desk

log = logging.getLogger(__name__)
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    # Pictures are fetched and shown as blobs, so that the page can say why one is missing.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # radiographs do not belong in a browser's cache
}
BODY_LIMIT = 512 * 1024
_PATH = re.compile(r"/([\w-]{1,100})/([\w./]{0,60})")


class _Response(NamedTuple):
    """A status, a body and its type."""

    status: int
    body: bytes
    kind: str = "application/json"


class ReviewServer(ThreadingHTTPServer):
    """Serves ``desk`` at ``host``; ``links`` maps each reader to his token, which is the first part of every path.

    Port 0 takes a free one (``server_port`` says which). Raises OSError, with the way out, where the port is taken.
    """

    daemon_threads = True

    def __init__(self, desk: Desk, links: Mapping[str, str], host: str, port: int) -> None:
        self.desk, self.links, self.host = desk, dict(links), host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), ReviewHandler)
        except (OSError, OverflowError) as error:
            way_out = "choose another with port= (0: a free one)"
            raise OSError(f"cannot serve on {host} port {port}: {error}; {way_out}") from error

    def reader(self, token: str) -> str | None:
        """The reader with this ``token``, or None; the time does not depend on where a wrong token differs."""
        found = None
        for reviewer, own in self.links.items():
            if hmac.compare_digest(token.encode(), own.encode()):
                found = reviewer
        return found

    def knows(self, host: str) -> bool:
        """True for a Host header that no foreign site's name can put there: an address, localhost or our own name.

        A page on another site can point its own name at 127.0.0.1 (DNS rebinding); the browser then sends that name.
        The port is free, so that a tunnel may end on another one.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in {"localhost", self.host.lower()}:
            return "@" not in host
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def address(self, reviewer: str) -> str:
        """The link of one reader."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_port}/{self.links[reviewer]}/"


class ReviewHandler(BaseHTTPRequestHandler):
    """One request."""

    server: ReviewServer
    server_version, sys_version = "chexreason", ""
    timeout = 30  # seconds a client may be silent

    def do_GET(self) -> None:
        """The page and its files, the reader's traces, a picture."""
        self._send(self._checked(self._get))

    def do_POST(self) -> None:
        """A decision."""
        self._send(self._checked(self._post))

    def _checked(self, answer: Callable[[str, str], _Response]) -> _Response:
        """``answer(reader, place)`` once the request has passed every check; errors become replies."""
        if not self.server.knows(self.headers.get("Host", "")):
            return _refusal(421, "this server does not go by that name; use the link as it was printed")
        path = _PATH.fullmatch(urlsplit(self.path).path)
        reader = self.server.reader(path[1]) if path else None
        if path is None or reader is None:
            return _refusal(403, "this link is not valid: ask for a new one where the review was started")
        if not self._same_site():
            return _refusal(403, "requests from other sites are refused")
        try:
            return answer(reader, path[2])
        except ImageError as error:
            why = error.why.replace(str(error.path), "its file")  # the machine's folders are not the reader's business
            return _refusal(404, f"the image cannot be shown: {why}")
        except (IndexError, FileNotFoundError) as error:
            return _refusal(404, str(error))
        except ValueError as error:
            return _refusal(400, str(error))
        except OSError as error:
            log.error("%s", error)
            return _refusal(503, f"not saved: {error}")
        except Exception:  # a reader's tab must hear of it, and the server must live on
            log.error("a request failed:\n%s", traceback.format_exc())
            return _refusal(500, "the server failed; its terminal says why")

    def _same_site(self) -> bool:
        """False for a request that a page of another site makes the browser send."""
        if self.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
            return False
        origin = self.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc == self.headers.get("Host")

    def _get(self, reader: str, place: str) -> _Response:
        if place in FILES:
            name, kind = FILES[place]
            return _Response(200, (Path(__file__).parent / name).read_bytes(), kind)
        if place == "state":
            return _json(200, self.server.desk.state(reader))
        if (number := place.removeprefix("image/")).isdecimal() and place.startswith("image/"):
            return _Response(200, self.server.desk.picture(int(number)), "image/png")
        raise FileNotFoundError("there is nothing here")

    def _post(self, reader: str, place: str) -> _Response:
        number = place.removeprefix("decision/")
        if not place.startswith("decision/") or not number.isdecimal():
            raise FileNotFoundError("there is nothing here")
        # A form of another site cannot send this type without asking first.
        if self.headers.get_content_type() != "application/json":
            return _refusal(415, "a decision is sent as application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return _refusal(411, "a decision comes with its length")
        if int(length) > BODY_LIMIT:
            return _refusal(413, f"a decision has at most {BODY_LIMIT:,} bytes")
        body = self.rfile.read(int(length))
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("the decision arrived damaged (no JSON): send it again") from None
        kept, wrong = self.server.desk.decide(reader, int(number), said)
        return _json(422, {"faults": wrong}) if wrong else _json(200, {"decision": kept})

    def _send(self, reply: _Response) -> None:
        try:
            self.send_response(reply.status)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
        except ConnectionError:  # the reader went on before the picture had come
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: the path of a request holds a token."""


def _json(status: int, value: object) -> _Response:
    return _Response(status, json.dumps(value).encode())


def _refusal(status: int, why: str) -> _Response:
    return _json(status, {"faults": [why]})
