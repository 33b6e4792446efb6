"""The OpenAI-compatible server: chat from mounted memories, embeddings, models, health, metrics."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..data.sources import is_supported, likely_span
from .access import Access
from .dispatch import Asked, Dispatch, Waiting
from .embeddings import EmbeddingRequest, EmbeddingResponse, embed
from .engine import Engine
from .errors import ApiError, add_error_handlers, error_body
from .limits import BodyLimit
from .metrics import CountStatus
from .requests import DONE, FOUND, PIECE, Found
from .schema import (
    AnswerMessage,
    ChatRequest,
    ChatResponse,
    Choice,
    ClaraFacts,
    ErrorResponse,
    Health,
    ModelEntry,
    ModelList,
    Source,
    Usage,
)

ERRORS = {status: {"model": ErrorResponse} for status in (400, 401, 404, 413, 422, 429, 500, 503)}
CHAT = "/v1/chat/completions"
DEFAULT_BODY = 1 << 20


def make_server(
    engine: Engine,
    memories: Mapping[str, Any],
    model_name: str = "clara",
    max_new_tokens: int = 512,
    max_body_bytes: int = DEFAULT_BODY,
    api_key: str | None = None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    rewrite: bool = False,
) -> FastAPI:
    """The app around an engine; the engine starts and ends with it.

    Args:
        engine: Not yet started.
        memories: `CorpusMemory`s by name; the first answers requests whose `model` is `model_name`.
        model_name: A name for the model itself.
        max_new_tokens: Longest answer that may be asked for.
        max_body_bytes: Largest request.
        api_key: What a request must name, if anything.
        hosts: Names under which the server may be addressed; none allows all.
        origins: Web pages, such as `https://example.org`, whose scripts may ask; none by default.
        rewrite: Whether the base rewrites a question that follows earlier turns, so that it stands alone.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await run_in_threadpool(engine.close, True, 60.0)

    app = FastAPI(title="CLaRa", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.dispatch = Dispatch(engine, memories, model_name, max_new_tokens, rewrite)
    app.add_middleware(BodyLimit, limit=max_body_bytes)
    app.add_middleware(Access, key=api_key, hosts=hosts)
    if origins:
        everything = {"allow_methods": ["*"], "allow_headers": ["*"]}
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), **everything)
    app.add_middleware(CountStatus, counter=app.state.dispatch.metrics.requests, path=CHAT)
    add_error_handlers(app)
    add_routes(app)
    return app


def add_routes(app: FastAPI) -> None:
    """What the server answers."""
    app.add_api_route(CHAT, chat, methods=["POST"], response_model=ChatResponse, responses=ERRORS)
    app.add_api_route(
        "/v1/embeddings", embeddings, methods=["POST"], response_model=EmbeddingResponse, responses=ERRORS
    )
    app.add_api_route("/v1/models", models, response_model=ModelList)
    missing = {404: {"model": ErrorResponse}}
    app.add_api_route("/v1/models/{name:path}", model, response_model=ModelEntry, responses=missing)
    app.add_api_route("/health", ready, response_model=Health, responses={503: {"model": Health}})
    app.add_api_route("/health/ready", ready, response_model=Health, responses={503: {"model": Health}})
    app.add_api_route("/health/live", live, response_model=Health)
    app.add_api_route("/metrics", metrics, response_class=Response, include_in_schema=False)


async def chat(body: ChatRequest, request: Request) -> Any:
    """Answers the last message from a mounted memory."""
    dispatch: Dispatch = request.app.state.dispatch
    asked = await run_in_threadpool(dispatch.check, body)
    waiting = dispatch.submit(body, asked)
    if body.stream:
        stream = StreamingResponse(streamed(dispatch, body, asked, waiting), media_type="text/event-stream")
        stream.headers["Cache-Control"] = "no-cache"
        return stream
    found, done = await unless_gone(request, waiting)
    if done is None:
        dispatch.metrics.cancelled.inc()
        return Response(status_code=499)
    response = ChatResponse(
        id=new_id(),
        created=int(time.time()),
        model=body.model,
        choices=[Choice(message=AnswerMessage(content=done.answer), finish_reason=done.reason)],
        usage=count(dispatch, found, done.tokens),
        clara=facts(asked, found, done.answer),
    )
    return JSONResponse(response.model_dump())


async def embeddings(body: EmbeddingRequest, request: Request) -> Any:
    """The search vectors of texts; any of the names of `/v1/models` will do."""
    dispatch: Dispatch = request.app.state.dispatch
    dispatch.named(body.model)
    response = await run_in_threadpool(embed, dispatch.engine.model, body)
    return JSONResponse(response.model_dump())


async def unless_gone(request: Request, waiting: Waiting) -> tuple[Any, Any]:
    """The whole answer, or (None, None) as soon as the client is gone."""
    answer = asyncio.ensure_future(waiting.whole())
    gone = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else (None, None)
    finally:
        for task in (answer, gone):
            task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def left(request: Request) -> None:
    """Returns when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def streamed(
    dispatch: Dispatch, body: ChatRequest, asked: Asked, waiting: Waiting
) -> AsyncIterator[str]:
    """The answer as server-sent events; when the client leaves, the request is given up."""
    head = {
        "id": new_id(),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": body.model,
    }
    found = done = None
    try:
        async with aclosing(waiting.events()) as events:
            async for event in events:
                if event.kind == FOUND:
                    found = event.value
                    yield chunk(
                        head,
                        {"role": "assistant", "content": ""},
                        clara=facts(asked, found).model_dump(),
                    )
                elif event.kind == PIECE:
                    yield chunk(head, {"content": event.value})
                elif event.kind == DONE:
                    done = event.value
        told = facts(asked, found, done.answer).model_dump()
        yield chunk(head, {}, done.reason, clara=told)
        usage = count(dispatch, found, done.tokens).model_dump()
        if body.stream_options and body.stream_options.include_usage:
            yield data({**head, "choices": [], "usage": usage})
    except ApiError as error:
        yield data(error_body(error.status, str(error), error.param, error.code))
    finally:
        if waiting.request is not None and waiting.request.cancelled:
            dispatch.metrics.cancelled.inc()
    yield "data: [DONE]\n\n"


def chunk(head: dict, delta: dict, reason: str | None = None, **extra: Any) -> str:
    """One event of a streamed answer."""
    return data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **extra})


def data(value: dict) -> str:
    """A server-sent event of JSON."""
    return f"data: {json.dumps(value)}\n\n"


def new_id() -> str:
    """An id for a completion."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def facts(asked: Asked, found: Found, answer: str | None = None) -> ClaraFacts:
    """Where the answer comes from; the likely sentences only when it is written."""
    rows = zip(found.document_ids, found.parents, found.scores, found.texts, strict=True)
    sources = [
        Source(
            id=id_,
            document_id=parent,
            score=score,
            text=text,
            span=None if answer is None else likely_span(text, asked.question, answer),
        )
        for id_, parent, score, text in rows
    ]
    supported = None if answer is None else is_supported(answer, found.texts)
    return ClaraFacts(
        memory=asked.memory,
        question=asked.question,
        documents=sources,
        messages_not_read=asked.not_read,
        supported=supported,
    )


def count(dispatch: Dispatch, found: Found, tokens: int) -> Usage:
    """Tokens of one answer, which the metrics learn too."""
    dispatch.metrics.prompt_tokens.inc(found.prompt_tokens)
    dispatch.metrics.tokens.inc(tokens)
    total = found.prompt_tokens + tokens
    return Usage(prompt_tokens=found.prompt_tokens, completion_tokens=tokens, total_tokens=total)


async def models(request: Request) -> ModelList:
    """The mounted memories; the model's own name stands for the first."""
    dispatch: Dispatch = request.app.state.dispatch
    return ModelList(
        data=[entry(dispatch, name) for name in dict.fromkeys([dispatch.model_name, *dispatch.memories])]
    )


async def model(name: str, request: Request) -> ModelEntry:
    """One name that `models` lists; names may hold slashes."""
    return entry(request.app.state.dispatch, name)


def entry(dispatch: Dispatch, name: str) -> ModelEntry:
    """What is said of a name; raises an `ApiError` (404) if nothing is mounted under it."""
    memory = dispatch.memories[dispatch.named(name)]
    return ModelEntry(id=name, created=dispatch.started, passages=len(memory))


async def ready(request: Request) -> Response:
    """Whether questions are taken now: 200, else 503."""
    return health(request.app.state.dispatch.engine, request.app.state.dispatch.engine.ready)


async def live(request: Request) -> Response:
    """Whether the process answers at all."""
    return health(request.app.state.dispatch.engine, True)


def health(engine: Engine, well: bool) -> Response:
    """The state of the engine."""
    state = Health(status="ok" if well else "unavailable", waiting=engine.waiting, running=engine.running)
    return JSONResponse(state.model_dump(), 200 if well else 503)


async def metrics(request: Request) -> Response:
    """Prometheus' page."""
    return Response(request.app.state.dispatch.metrics.page(), media_type="text/plain; version=0.0.4")
