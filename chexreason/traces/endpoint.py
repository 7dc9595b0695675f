"""Rules about endpoints: what is not public stays on loopback, an address holds no key, what a status code means."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from chexreason.data.credentialed import agreement_for
from chexreason.files import without_secrets
from chexreason.traces.ask import Then, Unanswered
from chexreason.types import Study

_SHOWN = 300  # characters of an endpoint's own message


def is_loopback_host(host: str) -> bool:
    """True for ``localhost`` or a literal loopback address, nothing else.

    Another name is not looked up: what it resolves to may change between the check and the request.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback(endpoint: str) -> bool:
    """True for a web address that cannot leave this machine; libraries read one with odd characters differently."""
    plain = endpoint.startswith(("http://", "https://")) and endpoint.isprintable() and not set(endpoint) & set("\\ ")
    return plain and is_loopback_host(urlsplit(endpoint).hostname or "")


def bare(endpoint: str) -> tuple[str, tuple[str, str] | None, dict[str, str]]:
    """The address as it may be written down; the user and password, and the query, that stood in it."""
    parts = urlsplit(endpoint)
    login, at, place = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    address = urlunsplit((parts.scheme, place, parts.path, "", ""))
    return address, (unquote(user), unquote(password)) if at else None, dict(parse_qsl(parts.query))


def check_export(studies: Collection[Study], endpoint: str, public: Collection[str], agreement: object) -> str | None:
    """The agreement under which ``studies`` go to ``endpoint``, None where none is needed.

    Raises ExportError where studies that are not of ``public`` sets would be sent past loopback and ``agreement`` does
    not name what allows it.
    """
    if not endpoint or is_loopback(endpoint):
        return None
    way = f"to {endpoint}: serve a model on this machine (teacher.endpoint=http://127.0.0.1:8000/v1)"
    return agreement_for(studies, public, agreement, way)


def api_key(variable: str, endpoint: str) -> str:
    """The key in the environment's ``variable``; loopback needs none. Raises ValueError where it is missing."""
    key = os.environ.get(variable, "").strip()
    if not key and not is_loopback(endpoint):
        raise ValueError(f"no key for {endpoint}: put it in the environment variable {variable}")
    return key or "none"


def failure(status: int, body: str, headers: Mapping[str, str]) -> Unanswered:
    """What an error status means, with the endpoint's own words and the pause it asks for."""
    said, then = body.lower(), Then.LEAVE
    if status in (401, 402, 403, 404) or status < 400 or "insufficient_quota" in said:
        then = Then.STOP
    elif status in (408, 409, 425, 429) or status >= 500:
        then = Then.AGAIN
    elif status == 413 or ("image" in said and any(word in said for word in ("large", "size", "exceed", "dimension"))):
        then = Then.SMALLER
    return Unanswered(
        f"HTTP {status}", then, wait=_retry_after(headers), detail=without_secrets(" ".join(body.split()))[:_SHOWN]
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from ``Retry-After`` as seconds or as a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
