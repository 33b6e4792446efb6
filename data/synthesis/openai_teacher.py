"""A teacher behind any OpenAI-compatible server: vLLM, SGLang, `transformers serve`, or a provider."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from typing import Any

from .teacher import Reply, Request, TeacherStoppedError, TeacherUnavailableError, Usage

logger = logging.getLogger(__name__)

FATAL = ("401", "403", "404")
REQUEST_FAULTS = ("400", "413", "422")
LONGEST_DELAY = 30.0


class OpenAITeacher:
    """Sends requests through the `openai` client: bounded concurrency, back-off, one shared pause.

    Before the first success a refused connection is fatal, so a wrong address is reported at once.
    Afterwards every failure is retried with growing delays; a server that answers nothing for `patience`
    seconds stops the run.

    Args:
        base_url: the server's address, such as `http://localhost:8000/v1`.
        model: the model's name at the server; None asks the server and takes its first.
        api_key: the key; None reads `OPENAI_API_KEY`, or sends none.
        concurrency: the most calls in flight.
        timeout: seconds to wait for one reply.
        max_attempts: attempts for one request before it is given up as a bad request.
        patience: seconds without any success after which the run stops.
        first_delay: seconds before the second attempt; each later one waits twice as long, up to 30 s.
        extra_body: further fields for every request, such as vLLM's `chat_template_kwargs`.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        concurrency: int = 64,
        timeout: float = 120.0,
        max_attempts: int = 8,
        patience: float = 600.0,
        first_delay: float = 0.5,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        import openai

        self.base_url, self.model, self.extra_body = base_url, model, extra_body
        self.max_attempts, self.patience, self.first_delay = max_attempts, patience, first_delay
        self.usage = Usage()
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAioHttpClient(),
        )
        self._slots = asyncio.Semaphore(concurrency)
        self._first = asyncio.Lock()
        self._last_success: float | None = None
        self._resume_at = 0.0
        self._send_schema = True

    async def complete(self, request: Request) -> Reply:
        """Answers one request; see `Teacher.complete`."""
        async with self._slots:
            async with self._first:
                if self._last_success is None:
                    return await self._attempts(request)
            return await self._attempts(request)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _attempts(self, request: Request) -> Reply:
        """Tries until there is a reply; a request that keeps failing at a live server is given up."""
        started, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            await self._sleep_until(self._resume_at)
            try:
                reply = await self._send(request)
            except (self._openai.APIError, ValueError) as error:
                failure = error
            else:
                self._last_success = time.monotonic()
                self.usage.add(reply)
                return reply
            kind = self._kind(failure)
            self.usage.add_retry(kind)
            self._stop_if_hopeless(failure, kind, started)
            if kind in REQUEST_FAULTS or (attempt >= self.max_attempts and await self._is_alive(started)):
                logger.warning("giving up a request after %d attempts (%s): %s", attempt, kind, failure)
                return Reply("", finish_reason="bad_request")
            await self._wait(attempt, kind, failure)

    async def _is_alive(self, started: float) -> bool:
        """Whether the server answers other requests: one did since `started`, or a tiny one does now."""
        if self._last_success is not None and self._last_success > started:
            return True
        try:
            await self._send(
                Request(({"role": "user", "content": "Reply with the word yes."},), max_tokens=4)
            )
        except (self._openai.APIError, ValueError):
            return False
        self._last_success = time.monotonic()
        return True

    @staticmethod
    async def _sleep_until(moment: float) -> None:
        delay = moment - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)

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
            logger.warning("%s refuses `response_format`; replies are parsed without it.", self.base_url)
            return reply

    async def _send_once(self, request: Request, with_schema: bool) -> Reply:
        """Sends once, by the client's plain `post`: its typed method takes far longer to build a call."""
        body = {
            "model": self.model or await self._first_model(),
            "messages": request.messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            **(self.extra_body or {}),
        }
        if with_schema:
            schema = {"name": request.schema_name, "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return _reply(await self._client.post("/chat/completions", body=body, cast_to=object))

    async def _first_model(self) -> str:
        """Asks the server which models it has and keeps the first."""
        models = (await self._client.models.list()).data
        if not models:
            raise TeacherUnavailableError(f"{self.base_url} lists no model: name one with `model`.")
        self.model = models[0].id
        return self.model

    def _kind(self, error: Exception) -> str:
        """Names a failure: "timeout", "connection", "invalid", or its HTTP status."""
        if (
            isinstance(error, self._openai.APITimeoutError)
            and "Connect" not in type(error.__cause__).__name__
        ):
            return "timeout"
        if isinstance(error, self._openai.APIConnectionError):
            return "connection"
        return str(getattr(error, "status_code", "invalid"))

    def _stop_if_hopeless(self, error: Exception, kind: str, started: float) -> None:
        if kind in FATAL:
            raise TeacherUnavailableError(
                f"{self.base_url} refuses model {self.model!r} ({kind}): {error}"
            ) from error
        if kind == "connection" and self._last_success is None:
            raise TeacherUnavailableError(
                f"no teacher answers at {self.base_url} ({error.__cause__ or error}). Start the server or "
                "correct `--teacher`."
            ) from error
        silence = time.monotonic() - max(self._last_success or 0.0, started)
        if silence > self.patience:
            raise TeacherStoppedError(
                f"{self.base_url} has not answered for {silence:.0f} s ({kind}: {error}). "
                "Every finished call is kept: run the same command again once it answers."
            ) from error

    async def _wait(self, attempt: int, kind: str, error: Exception) -> None:
        """Backs off; when the server is away or wants less, everybody waits."""
        delay = min(LONGEST_DELAY, self.first_delay * 2 ** min(attempt - 1, 10)) * random.uniform(0.75, 1.25)
        delay = _retry_after(error) or delay
        if kind in ("connection", "429", "503"):
            self._resume_at = max(self._resume_at, time.monotonic() + delay)
        logger.info("attempt %d failed (%s); waiting %.1f s", attempt, kind, delay)
        await asyncio.sleep(delay)


def _reply(completion: Any) -> Reply:
    """Reads the body of a chat completion.

    Raises:
        ValueError: if it is none; the call is then tried again, as after a server error.
    """
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


def _retry_after(error: Exception) -> float | None:
    """Returns the seconds that a `Retry-After` header asks for, at most LONGEST_DELAY."""
    response = getattr(error, "response", None)
    value = response.headers.get("retry-after") if response is not None else None
    try:
        return min(float(value), LONGEST_DELAY) if value else None
    except ValueError:
        return None
