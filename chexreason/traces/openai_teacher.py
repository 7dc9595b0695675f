"""A teacher behind any endpoint with OpenAI's chat completions: OpenAI, Gemini, vLLM, llama.cpp, ..."""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import logging
from collections.abc import Mapping
from typing import Any

from chexreason.files import MASK
from chexreason.traces.ask import Question, Reply, Tariff, Then, Unanswered
from chexreason.traces.endpoint import api_key, bare, failure, is_loopback


class OpenAITeacher:
    """Asks ``model`` at ``endpoint`` (".../v1") through the official client.

    ``options`` go into the request as they are (temperature, max_tokens, reasoning_effort, extra_body, ...). The key is
    read from the environment's ``key_variable``; an endpoint on loopback needs none. Neither the key nor a login or
    query in the address is in ``endpoint``, or in what ``ask`` returns and raises. Raises ModuleNotFoundError without
    the extra ``teacher`` and ValueError on an option that a request does not have.
    """

    def __init__(
        self,
        model: str,
        endpoint: str,
        tariff: Tariff,
        options: Mapping[str, Any] | None = None,
        key_variable: str = "OPENAI_API_KEY",
        sees_image: bool = True,
    ) -> None:
        endpoint, login, query = bare(endpoint)
        self.model, self.endpoint, self.tariff, self.sees_image = model, endpoint, tariff, sees_image
        self._options = dict(options or {})
        self._openai, self._httpx = _client("openai"), _client("httpx2")
        # A request goes to the endpoint and nowhere else: it follows no redirect, and uses no proxy for loopback. The
        # caller counts retries, pauses and time, so the client has none of its own.
        inside = is_loopback(endpoint)
        http = self._httpx.AsyncClient(follow_redirects=False, trust_env=not inside, timeout=None, auth=login)
        key = "none" if login else api_key(key_variable, endpoint)
        basic = base64.b64encode(":".join(login).encode()).decode() if login else ""
        self._secrets = [key, *(login or ())[1:], basic, *query.values()]
        self._client = self._openai.AsyncOpenAI(
            base_url=endpoint, api_key=key, default_query=query, max_retries=0, timeout=None, http_client=http
        )
        known = inspect.signature(self._client.chat.completions.create).parameters
        if unknown := [name for name in self._options if name not in known]:
            raise ValueError(
                f"a chat completion has no option {', '.join(unknown)} (teacher.options): Gemini's max_output_tokens "
                f"is max_tokens here, its thinking_config is reasoning_effort; what only one endpoint knows goes into "
                f"extra_body"
            )

    async def ask(self, question: Question) -> str:
        """The body of the completion; raises Unanswered."""
        content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
        if question.image is not None:
            url = f"data:image/jpeg;base64,{base64.b64encode(question.image).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        asked: list[Any] = [{"role": "user", "content": content if question.image is not None else question.text}]
        completions = self._client.chat.completions.with_raw_response
        try:
            response = await completions.create(model=self.model, messages=asked, **self._options)
        except self._openai.APIStatusError as error:
            body = self._hidden(error.response.text)
            if error.status_code == 400 and _is_refusal(body):
                return body
            raise failure(error.status_code, body, error.response.headers) from None
        except self._openai.APIConnectionError as error:
            cause = error.__cause__ or error
            # Without a connection nothing was done; once it was open, the work may have been paid for.
            billed, said = not isinstance(cause, self._httpx.ConnectError), str(cause) or type(cause).__name__
            raise Unanswered("no connection", Then.AGAIN, detail=self._hidden(said), billed=billed) from None
        return self._hidden(response.http_response.text)

    def _hidden(self, text: str) -> str:
        """What a server said, without the keys that it repeats."""
        for secret in self._secrets:
            text = text.replace(secret, MASK) if len(secret) > len("none") else text
        return text

    def read(self, body: str) -> Reply:
        """What a completion says, or a body in Gemini's own form; raises ValueError where it is neither."""
        value = json.loads(body)
        whole = value[0] if isinstance(value, list) and value else value  # Gemini wraps an error in a list
        if isinstance(whole, dict) and "error" in whole and _is_refusal(body):
            return Reply(str(whole["error"]), refused=True, tokens_in=0, tokens_out=0)
        try:
            if "candidates" in value or "promptFeedback" in value:
                return _read_gemini(value)
            choice, usage = value["choices"][0], value.get("usage") or {}
            message, finish = choice["message"], str(choice.get("finish_reason"))
            refused = bool(message.get("refusal")) or _is_filtered(finish)
            text = _joined(message.get("content")) or str(message.get("refusal") or "")
            return Reply(text, refused, finish in ("length", "MAX_TOKENS"), *_counts(usage))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"no chat completion: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


def _client(package: str) -> Any:
    logging.getLogger(package).setLevel(logging.WARNING)  # it logs the address of each request
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{package} is not installed: pip install 'chexreason[teacher]'") from None


def _is_refusal(body: str) -> bool:
    """True where an error is about the content of the request: to send it again would not help."""
    said = body.lower()
    return any(word in said for word in ("content_filter", "content_policy", "content management policy", "safety"))


def _is_filtered(finish: str) -> bool:
    """True for OpenAI's reason, whatever follows it, and for Gemini's own (SAFETY, RECITATION, ...)."""
    return finish.startswith("content_filter") or (finish.isupper() and finish not in ("STOP", "MAX_TOKENS"))


def _joined(content: object) -> str:
    """The text of a message, which some servers send in parts; raises TypeError where it is something else."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content is a {type(content).__name__}")
    return content or ""


def _counts(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens in and out as they are billed, None where they are not stated.

    Thoughts are billed as output. OpenAI counts them among ``completion_tokens``, Gemini in ``total_tokens`` alone.
    """
    tokens_in, spoken, total = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if tokens_in is None or spoken is None:
        return tokens_in, spoken
    details = usage.get("completion_tokens_details")
    thoughts = (_count(details.get("reasoning_tokens")) if isinstance(details, dict) else None) or 0
    return tokens_in, spoken + thoughts if total is None else max(spoken, thoughts, total - tokens_in)


def _count(value: object) -> int | None:
    """A number of tokens as an endpoint states it; None where it states none, or nonsense."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _read_gemini(value: Mapping[str, Any]) -> Reply:
    """The reply in a body of Gemini's own interface: databases of an earlier version hold such answers, paid for."""
    usage = value.get("usageMetadata") or {}
    tokens_in, spoken, thoughts = (_count(usage.get(f"{n}TokenCount")) for n in ("prompt", "candidates", "thoughts"))
    if reason := value.get("promptFeedback", {}).get("blockReason"):
        return Reply(str(reason), True, False, tokens_in, (spoken or 0) + (thoughts or 0))
    candidate = value["candidates"][0]
    parts = (candidate.get("content") or {}).get("parts") or []
    text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
    finish = candidate.get("finishReason", "STOP")
    tokens_out = None if spoken is None else spoken + (thoughts or 0)
    return Reply(text, finish not in ("STOP", "MAX_TOKENS"), finish == "MAX_TOKENS", tokens_in, tokens_out)
