"""Opens the teacher that a specification names: a server's address, `local:MODEL`, or `scripted`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from .teacher import Teacher


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
        if self.kind == "unknown" or self.teacher == "local:":
            raise ValueError(
                "`teacher` must be an address (http://… or https://…), local:MODEL or scripted, "
                f"got {self.teacher!r}."
            )
        for name in ("concurrency", "timeout", "patience", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")

    @property
    def kind(self) -> str:
        """Returns "server", "local", "scripted" or "unknown"."""
        if self.teacher.startswith(("http://", "https://")):
            return "server"
        if self.teacher.startswith("local:"):
            return "local"
        return "scripted" if self.teacher == "scripted" else "unknown"

    @property
    def name(self) -> str:
        """Returns the name for the manifest and the card: the model, not the machine it runs on."""
        return (self.model or "the server's first model") if self.kind == "server" else self.teacher


@asynccontextmanager
async def open_teacher(settings: TeacherSettings) -> AsyncIterator[Teacher]:
    """Opens a teacher, and closes it at the end.

    Raises:
        TeacherUnavailableError: if a local model cannot be loaded.
    """
    if settings.kind == "server":
        from .openai_teacher import OpenAITeacher

        client = OpenAITeacher(
            settings.teacher,
            settings.model,
            concurrency=settings.concurrency,
            timeout=settings.timeout,
            patience=settings.patience,
            extra_body=settings.extra_body or None,
        )
        try:
            yield client
        finally:
            await client.close()
    elif settings.kind == "local":
        from .local_teacher import LocalTeacher

        yield LocalTeacher.from_pretrained(settings.teacher.removeprefix("local:"), settings.batch_size)
    else:
        from .scripted_teacher import ScriptedTeacher

        yield ScriptedTeacher()
