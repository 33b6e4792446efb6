"""Between HTTP and the engine: the memory that is meant, checks of the question, the events as they come."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from ..processing_clara import clean_text
from .engine import ClosingError, Engine, QueueFullError
from .errors import ApiError
from .history import standalone_question
from .metrics import Metrics
from .requests import DONE, FAILED, PIECE, EngineRequest, Event, Options
from .schema import ChatRequest


class Asked(NamedTuple):
    """What is asked of which memory, how it is read, and how many turns of the chat were not read."""

    memory: str
    question: str
    reading: str
    not_read: int


class Dispatch:
    """Takes requests for one engine and its mounted memories.

    Args:
        engine: Answers the questions.
        memories: Mounted `CorpusMemory`s by name; the first is the default.
        model_name: A request's `model` may be this, or the name of a memory.
        max_new_tokens: Longest answer that may be asked for.
        rewrite: Whether the base rewrites a question that follows earlier turns, so that it stands alone.

    Raises:
        ValueError: If there is no memory, or `model_name` is the name of one that is not the first.
    """

    def __init__(
        self, engine: Engine, memories: Mapping[str, Any], model_name: str, max_new_tokens: int, rewrite: bool
    ) -> None:
        if not memories:
            raise ValueError("`memories` is empty: mount at least one memory.")
        if model_name in memories and model_name != next(iter(memories)):
            raise ValueError(
                f"`model_name` {model_name!r} stands for the first memory and is the name of another one: "
                "give one of them another name."
            )
        self.engine, self.memories, self.model_name = engine, dict(memories), model_name
        self.max_new_tokens, self.rewrite = max_new_tokens, rewrite
        self.metrics = Metrics(engine)
        self.started = int(time.time())
        self._seconds = 1.0

    def memory_name(self, body: ChatRequest) -> str:
        """The mounted memory that a request means.

        Raises:
            ApiError: 404 if there is none of that name.
        """
        named = self.named(body.model)
        if body.memory is not None and body.memory not in self.memories:
            raise self._unknown("memory", body.memory, self.memories)
        return body.memory or named

    def named(self, model: str) -> str:
        """The memory that stands behind a `model`.

        Raises:
            ApiError: 404 if there is none of that name.
        """
        if model == self.model_name:
            return next(iter(self.memories))
        if model not in self.memories:
            raise self._unknown("model", model, {*self.memories, self.model_name})
        return model

    @staticmethod
    def _unknown(param: str, name: str, known: Iterable[str]) -> ApiError:
        message = f"`{param}` {clean_text(name)!r} is not mounted here; there are {sorted(known)}."
        return ApiError(404, message, param, "model_not_found")

    def check(self, body: ChatRequest) -> Asked:
        """What a request asks that can be answered.

        Raises:
            ApiError: 404 for an unknown memory, 400 for a question, K or length that the model cannot serve.
        """
        name, options = self.memory_name(body), body.options()
        if body.messages[-1].role != "user":
            raise ApiError(400, "`messages` must end with the user's question.", "messages")
        passages = len(self.memories[name])
        if body.retrieval_top_k is not None and body.retrieval_top_k > passages:
            given = f"`retrieval_top_k` is {body.retrieval_top_k} but {name!r} has {passages} passages."
            raise ApiError(400, given, "retrieval_top_k")
        if max(options.max_new_tokens, options.min_new_tokens) > self.max_new_tokens:
            raise ApiError(400, f"At most {self.max_new_tokens} tokens may be asked for.", "max_tokens")
        if options.min_new_tokens > options.max_new_tokens:
            raise ApiError(400, "`min_tokens` is above `max_tokens`.", "min_tokens")
        k = min(self.engine.model.config.retrieval_top_k, passages)
        k = k if body.retrieval_top_k is None else body.retrieval_top_k
        if body.reading == "each":
            self._check_each(k, options)
        asked = self._asked(body, name, k)
        together = asked.reading == "together" or self.engine.model.config.reading_joint is not None
        self._check_lengths(asked.question, k if together else 1, options)
        return asked

    def _reading(self, body: ChatRequest, k: int) -> str:
        """How the memories are read: as asked, else as the model does it, where that is possible."""
        each = body.options().temperature == 0 and self.engine.readings(k) <= self.engine.max_batch
        return body.reading or (self.engine.model.config.reading if each else "together")

    def _asked(self, body: ChatRequest, name: str, k: int) -> Asked:
        """The last message as the question, or what the base makes of it and the turns before it."""
        turns = [(turn.role, turn.text()) for turn in body.messages if turn.role in ("user", "assistant")]
        turns = turns if self.rewrite else turns[-1:]
        question, count = standalone_question(self.engine.model, turns)
        return Asked(name, question, self._reading(body, k), len(body.messages) - count)

    def _check_each(self, k: int, options: Options) -> None:
        if options.temperature > 0:
            raise ApiError(400, "`reading` 'each' answers greedily: leave `temperature` out.", "temperature")
        if (count := self.engine.readings(k)) > self.engine.max_batch:
            raise ApiError(
                400,
                f"`reading` 'each' writes {count} answers at once, this server at most "
                f"{self.engine.max_batch}: ask with a smaller `retrieval_top_k`.",
                "retrieval_top_k",
            )

    def _check_lengths(self, question: str, chosen: int, options: Options) -> None:
        model = self.engine.model
        processor = model.processor
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)  # Bloom has none
        try:
            processor.encode_questions([question])
            prompt = processor.encode_prompts([question], [[model.config.num_memory_tokens] * chosen])
        except ValueError as error:
            raise ApiError(400, str(error), "messages", "context_length_exceeded") from error
        length = prompt["input_ids"].shape[1] + options.max_new_tokens
        if limit is not None and length > limit:
            message = f"Prompt and answer have {length} tokens together, the model's limit is {limit}."
            raise ApiError(400, message, "max_tokens", "context_length_exceeded")

    def retry_after(self) -> int:
        """Seconds after which a refused client may try again: what the queue takes at the present pace."""
        rounds = 1 + self.engine.waiting / self.engine.max_batch
        return max(1, math.ceil(rounds * self._seconds))

    def submit(self, body: ChatRequest, asked: Asked) -> "Waiting":
        """Queues a question that was checked.

        Raises:
            ApiError: 429 if the queue is full, 503 if the server is going down.
        """
        waiting = Waiting(self, asyncio.get_running_loop())
        memory, options = self.memories[asked.memory], body.options()
        waiting.request = EngineRequest(
            asked.question,
            memory,
            waiting.deliver,
            body.retrieval_top_k,
            options,
            body.search(),
            asked.reading,
        )
        try:
            self.engine.submit(waiting.request)
        except QueueFullError as error:
            headers = {"Retry-After": str(self.retry_after())}
            raise ApiError(429, f"{error} Try again later.", code="queue_full", headers=headers) from error
        except ClosingError as error:
            raise ApiError(503, str(error), code="closing", headers={"Retry-After": "10"}) from error
        return waiting

    def finished(self, request: EngineRequest) -> None:
        """Notes how long an answer took."""
        seconds = time.perf_counter() - request.submitted
        self._seconds += 0.2 * (seconds - self._seconds)
        self.metrics.latency.observe(seconds)


class Waiting:
    """The events of one request, for the event loop; leaving the iteration early gives the request up."""

    def __init__(self, dispatch: Dispatch, loop: asyncio.AbstractEventLoop) -> None:
        self.request: EngineRequest | None = None
        self._dispatch, self._loop = dispatch, loop
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def deliver(self, event: Event) -> None:
        """Called in the engine's thread; a loop that is gone has nobody left to tell."""
        if self._loop.is_closed():
            self.request.cancel()
            return
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Event]:
        """FOUND, PIECEs and DONE as they come.

        Raises:
            ApiError: 503 if the server goes down without draining, 500 if the engine failed.
        """
        first = True
        try:
            while True:
                event = await self._events.get()
                if event.kind == FAILED:
                    asked, self.request = self.request, None
                    raise failure(event.value, asked.search) from event.value
                if event.kind == PIECE and first:
                    first = False
                    self._dispatch.metrics.first.observe(time.perf_counter() - self.request.submitted)
                if event.kind == DONE:
                    self._dispatch.finished(self.request)
                    self.request = None
                yield event
                if event.kind == DONE:
                    return
        finally:
            if self.request is not None:
                self.request.cancel()

    async def whole(self) -> tuple[Any, Any]:
        """What was found, and the finished answer."""
        found = None
        async with aclosing(self.events()) as events:
            async for event in events:
                found = event.value if found is None else found
                last = event.value
        return found, last


def failure(error: Exception, search: Mapping[str, Any]) -> ApiError:
    """What a client is told of an engine's failure; what is wrong with its own search, in full."""
    if search and isinstance(error, (ValueError, ImportError)):
        return ApiError(400, str(error), "where" if "where" in search else "hybrid")
    if type(error) is ClosingError:
        return ApiError(503, str(error), code="closing", headers={"Retry-After": "10"})
    return ApiError(500, "The engine failed on this question; the server's log says why.")
