"""A teacher behind any endpoint that speaks OpenAI's chat completions: OpenAI, vLLM, llama.cpp, ..."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from chexreason.traces.ask import Question, Reply, Tariff
from chexreason.traces.endpoint import api_key, client_of, count, failure, http_client, is_refusal, lost


class OpenAITeacher:
    """Asks ``model`` at ``endpoint`` (".../v1") through the official client.

    ``options`` go into the request as they are (temperature, max_tokens, ...). The key is read from the environment's
    ``key_variable``; an endpoint on loopback needs none. Needs the extra ``teacher``.
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
        self.model, self.endpoint, self.tariff, self.sees_image = model, endpoint, tariff, sees_image
        self._options = dict(options or {})
        self._openai = client_of("openai")
        # Retries, pauses and time limits are the caller's, who counts them.
        self._client = self._openai.AsyncOpenAI(
            base_url=endpoint,
            api_key=api_key(key_variable, endpoint),
            max_retries=0,
            timeout=None,
            http_client=http_client(endpoint),
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
            body: str = error.response.text
            if error.status_code == 400 and is_refusal(body):
                return body
            raise failure(error.status_code, body, error.response.headers) from None
        except self._openai.APIConnectionError as error:
            raise lost(error.__cause__ or error) from None
        return str(response.http_response.text)

    def read(self, body: str) -> Reply:
        """What a completion says; raises ValueError where it is none."""
        value = json.loads(body)
        if isinstance(value, dict) and "error" in value and is_refusal(body):
            return Reply(str(value["error"]), refused=True, tokens_in=0, tokens_out=0)
        try:
            choice, usage = value["choices"][0], value.get("usage") or {}
            message, finish = choice["message"], choice.get("finish_reason")
            refused = bool(message.get("refusal")) or finish == "content_filter"
            text = _joined(message.get("content")) or str(message.get("refusal") or "")
            counts = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
            return Reply(text, refused, finish == "length", *counts)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"no chat completion: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Lets the connections go."""
        await self._client.close()


def _joined(content: object) -> str:
    """The text of a message, which some servers send in parts; raises TypeError where it is something else."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content is a {type(content).__name__}")
    return content or ""
