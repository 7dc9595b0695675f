"""A Gemini teacher, through Google's own client: the paper's teacher was Gemini 2.5."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chexreason.traces.ask import Question, Reply, Tariff
from chexreason.traces.endpoint import api_key, client_of, count, failure, http_client, lost


class GeminiTeacher:
    """Asks ``model`` at ``endpoint`` through google-genai.

    ``options`` go into the generation config as they are (temperature, max_output_tokens, ...). The key is read from
    the environment's ``key_variable``. Needs the extra ``teacher``.
    """

    def __init__(
        self,
        model: str,
        endpoint: str,
        tariff: Tariff,
        options: Mapping[str, Any] | None = None,
        key_variable: str = "GEMINI_API_KEY",
        sees_image: bool = True,
    ) -> None:
        self.model, self.endpoint, self.tariff, self.sees_image = model, endpoint, tariff, sees_image
        self._genai, self._http = client_of("google.genai"), http_client(endpoint)
        # Of the client's two transports the one given here neither retries nor follows redirects by itself.
        transport = self._genai.types.HttpOptions(base_url=endpoint, httpx_async_client=self._http)
        key = api_key(key_variable, endpoint)
        self._client = self._genai.Client(api_key=key, vertexai=False, http_options=transport)
        self._config = self._genai.types.GenerateContentConfig(should_return_http_response=True, **dict(options or {}))

    async def ask(self, question: Question) -> str:
        """The body of the response; raises Unanswered."""
        part = self._genai.types.Part
        images = [part.from_bytes(data=question.image, mime_type="image/jpeg")] if question.image is not None else []
        contents: Any = [part.from_text(text=question.text), *images]
        try:
            response = await self._client.aio.models.generate_content(
                model=self.model, contents=contents, config=self._config
            )
        except self._genai.errors.APIError as error:
            headers = getattr(error.response, "headers", {})
            raise failure(error.code, json.dumps(error.details, default=str), headers) from None
        except client_of("httpx2").TransportError as error:
            raise lost(error) from None
        return str(response.sdk_http_response.body if response.sdk_http_response else "")

    def read(self, body: str) -> Reply:
        """What a response says; raises ValueError where it is none."""
        value = json.loads(body)
        try:
            usage = value.get("usageMetadata") or {}
            thoughts, spoken = count(usage.get("thoughtsTokenCount")) or 0, count(usage.get("candidatesTokenCount"))
            counts = count(usage.get("promptTokenCount")), None if spoken is None else spoken + thoughts
            if value.get("promptFeedback", {}).get("blockReason"):
                return Reply(str(value["promptFeedback"]["blockReason"]), True, False, counts[0], counts[1] or 0)
            candidate = value["candidates"][0]
            parts = (candidate.get("content") or {}).get("parts") or []
            text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
            finish = candidate.get("finishReason", "STOP")
            return Reply(text, finish not in ("STOP", "MAX_TOKENS"), finish == "MAX_TOKENS", *counts)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"no Gemini response: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Lets the connections go."""
        await self._http.aclose()
