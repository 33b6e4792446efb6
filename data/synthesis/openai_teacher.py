"""A teacher behind any OpenAI-compatible server: vLLM, SGLang, `transformers serve`, or a provider."""

import asyncio
import logging
import os
import time
from typing import Any

from .teacher import Reply, Request, TeacherSettings, TeacherStoppedError, TeacherUnavailableError

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
PING = Request(({"role": "user", "content": "Reply with the word yes."},), max_tokens=4)


class OpenAITeacher:
    """Sends requests through the `openai` client, which retries each twice, with pauses and as it is told to.

    What still fails is sent again with growing pauses, as long as the server answers nothing for less than
    `settings.patience` seconds. Before the first success a refused connection is fatal, so a wrong address is
    reported at once.

    Args:
        settings: the server and how it is called.
        max_rounds: failures of a request, the client's retries included in each, after which it is given up
            as a bad one if the server answers others.
    """

    def __init__(self, settings: TeacherSettings, max_rounds: int = 3) -> None:
        import openai

        self.settings, self.model, self.max_rounds = settings, settings.model, max_rounds
        self._openai, self._url = openai, settings.teacher
        self._client = openai.AsyncOpenAI(
            base_url=self._url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=settings.timeout,
            http_client=openai.DefaultAioHttpClient(),
        )
        self._slots, self._naming = asyncio.Semaphore(settings.concurrency), asyncio.Lock()
        self._last_success: float | None = None
        self._send_schema = True

    async def complete(self, request: Request) -> Reply:
        """Answers one request; see `Teacher.complete`."""
        async with self._slots:
            started, rounds = time.monotonic(), 0
            while True:
                try:
                    return await self._send(request)
                except (self._openai.APIError, ValueError) as error:
                    rounds += 1
                    self._stop_if_hopeless(error, started)
                    refused = getattr(error, "status_code", None) in (400, 413, 422)
                    if refused or (rounds >= self.max_rounds and await self._is_alive(started)):
                        logger.warning("giving up a request after %d rounds: %s", rounds, error)
                        return Reply("", finish_reason="bad_request")
                await asyncio.sleep(min(LONGEST_PAUSE, 2.0 ** (rounds - 1)))

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _send(self, request: Request) -> Reply:
        """Sends once; a server that refuses schemas is asked again without one, and never again with one."""
        with_schema = request.schema is not None and self._send_schema
        try:
            return await self._send_once(request, with_schema)
        except self._openai.BadRequestError:
            if not with_schema:
                raise
            reply = await self._send_once(request, False)
            self._send_schema = False
            logger.warning("%s refuses `response_format`; replies are parsed without it.", self._url)
            return reply

    async def _send_once(self, request: Request, with_schema: bool) -> Reply:
        """Sends once, by the client's plain `post`: its typed method takes far longer to build a call."""
        body = {
            "model": self.model or await self._first_model(),
            "messages": request.messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            **self.settings.extra_body,
        }
        if with_schema:
            schema = {"name": request.schema_name, "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        reply = _reply(await self._client.post("/chat/completions", body=body, cast_to=object))
        self._last_success = time.monotonic()
        return reply

    async def _first_model(self) -> str:
        """Asks the server which models it has and keeps the first."""
        async with self._naming:
            if self.model is None:
                models = (await self._client.models.list()).data
                if not models:
                    raise TeacherUnavailableError(f"{self._url} lists no model: name one with `model`.")
                self.model = models[0].id
        return self.model

    async def _is_alive(self, started: float) -> bool:
        """Whether the server answers other requests: one did since `started`, or a tiny one does now."""
        if self._last_success is not None and self._last_success > started:
            return True
        try:
            await self._send_once(PING, False)
        except (self._openai.APIError, ValueError):
            return False
        return True

    def _stop_if_hopeless(self, error: Exception, started: float) -> None:
        if getattr(error, "status_code", None) in (401, 403, 404):
            raise TeacherUnavailableError(f"{self._url} refuses model {self.model!r}: {error}") from error
        unconnected = isinstance(error, self._openai.APIConnectionError)
        waited = isinstance(error, self._openai.APITimeoutError)
        refused = unconnected and (not waited or "Connect" in type(error.__cause__).__name__)
        if refused and self._last_success is None:
            raise TeacherUnavailableError(
                f"no teacher answers at {self._url} ({error.__cause__ or error}). Start the server or "
                "correct `--teacher`."
            ) from error
        silence = time.monotonic() - max(self._last_success or 0.0, started)
        if silence > self.settings.patience:
            raise TeacherStoppedError(
                f"{self._url} has not answered for {silence:.0f} s ({error}). "
                "Every finished call is kept: run the same command again once it answers."
            ) from error


def _reply(completion: Any) -> Reply:
    """Reads a chat completion; a ValueError if it is none, which is tried again, as after a server error."""
    try:
        choice, usage = completion["choices"][0], completion.get("usage") or {}
        message, finish_reason = choice["message"], choice.get("finish_reason") or "stop"
        refused = message.get("refusal") or finish_reason == "content_filter"
        return Reply(
            text=message.get("content") or "",
            finish_reason="refusal" if refused else finish_reason,
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
        )
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"not a chat completion: {str(completion)[:80]!r}") from error
