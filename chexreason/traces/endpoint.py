"""Rules about endpoints: credentialed data stays on loopback, remote endpoints need a key, what a status code means."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from chexreason.data.credentialed import ExportError, held_sets, is_held, named_agreement
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
    """True for an address that cannot leave this machine."""
    return is_loopback_host(urlsplit(endpoint).hostname or "")


def check_export(
    studies: Collection[Study], endpoint: str, credentialed: Collection[str], agreement: object
) -> str | None:
    """The agreement under which ``studies`` go to ``endpoint``, None where none is needed.

    Raises ExportError where credentialed studies would be sent past loopback and ``agreement`` does not name what
    allows it.
    """
    held = held_sets(studies, credentialed)
    if not endpoint or is_loopback(endpoint) or not held:
        return None
    named = named_agreement(agreement)
    if named is None:
        n_held = sum(is_held(study, credentialed) for study in studies)
        raise ExportError(
            f"{n_held} studies of {', '.join(held)} are credentialed and may not go to {endpoint}: serve a model on "
            f"this machine (teacher.endpoint=http://127.0.0.1:8000/v1), or name the agreement that allows it: "
            f"data.allow_export='...' (found {agreement!r})"
        )
    return named


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
    return Unanswered(f"HTTP {status}", then, wait=_retry_after(headers), detail=" ".join(body.split())[:_SHOWN])


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
