"""What a teacher is: one asynchronous method, from a request to a reply; and how one is opened.

`--teacher` names it: a server's address, `local:MODEL`, or `scripted`.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


class TeacherUnavailableError(ConnectionError):
    """No call can succeed: nothing answers at the address, or the server refuses the key or the model."""


class TeacherStoppedError(ConnectionError):
    """The teacher worked and then failed for longer than the client's patience. A rerun goes on from here."""


@dataclass(frozen=True)
class Request:
    """One call to a teacher. Equal requests have equal keys, so a finished call is never repeated."""

    messages: tuple[dict[str, str], ...]  # chat messages, each with `role` and `content`
    schema: Mapping[str, Any] | None = None  # JSON schema of the wanted reply, or None for plain text
    schema_name: str = "reply"  # the schema's name, as the server's interface wants one
    max_tokens: int = 512  # the most new tokens
    temperature: float = 0.0  # 0 for greedy decoding
    seed: int = 0  # seed of the sampling

    def key(self) -> str:
        """Returns a hash of everything that decides the reply."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """What a teacher answered.

    It finished by "stop", "length" (unfinished), "refusal" (also filtered content), or "bad_request" (the
    server does not accept this request, for example because it is longer than its context).
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0  # tokens read
    completion_tokens: int = 0  # tokens written


class Teacher(Protocol):
    """Answers requests; several may be awaited at once."""

    async def complete(self, request: Request) -> Reply:
        """Answers one request.

        Raises:
            TeacherUnavailableError: if no call can succeed.
            TeacherStoppedError: if the teacher worked before and has stopped answering.
        """
        ...


@dataclass(frozen=True)
class TeacherSettings:
    """Which teacher, and how it is called. An API key is never kept here: it is read from `OPENAI_API_KEY`.

    Attributes:
        teacher: an address such as `http://localhost:8000/v1`, `local:MODEL` (a path, a Hub id or an
            embedded base), or `scripted` (rules instead of a model, for dry runs and tests).
        model: the model's name at the server; None takes the server's first.
        concurrency: the most calls in flight.
        timeout: seconds to wait for one reply.
        patience: seconds without any reply after which the run stops.
        batch_size: requests in one batch of a local model.
        extra_body: further fields for every request to a server.

    Raises:
        ValueError: if `teacher` is none of the three, or a number is not positive.
    """

    teacher: str
    model: str | None = None
    concurrency: int = 64
    timeout: float = 120.0
    patience: float = 600.0
    batch_size: int = 8
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        local = self.teacher.startswith("local:") and self.teacher != "local:"
        if not (self.is_server or local or self.teacher == "scripted"):
            raise ValueError(
                "`teacher` must be an address (http://… or https://…), local:MODEL or scripted, "
                f"got {self.teacher!r}."
            )
        for name in ("concurrency", "timeout", "patience", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")

    @property
    def is_server(self) -> bool:
        """Whether the teacher is behind an address."""
        return self.teacher.startswith(("http://", "https://"))

    @property
    def name(self) -> str:
        """The name for the manifest and the card: the model, not the machine it runs on."""
        return (self.model or "the server's first model") if self.is_server else self.teacher


@asynccontextmanager
async def open_teacher(settings: TeacherSettings) -> AsyncIterator[Teacher]:
    """Opens a teacher, and closes it; a TeacherUnavailableError if a local model cannot be loaded."""
    if settings.is_server:
        from .openai_teacher import OpenAITeacher

        client = OpenAITeacher(settings)
        try:
            yield client
        finally:
            await client.close()
    elif settings.teacher == "scripted":
        from .scripted_teacher import ScriptedTeacher

        yield ScriptedTeacher()
    else:
        from .local_teacher import LocalTeacher

        yield LocalTeacher.from_pretrained(settings.teacher.removeprefix("local:"), settings.batch_size)


async def all_or_cancel(*calls: object) -> list:
    """Awaits all calls; if one fails, ends the others before the error goes on."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
