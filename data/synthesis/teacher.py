"""What a teacher is: one asynchronous method, from a request to a reply; and what its calls cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = dict[str, str]


class TeacherUnavailableError(ConnectionError):
    """No call can succeed: nothing answers at the address, or the server refuses the key or the model."""


class TeacherStoppedError(ConnectionError):
    """The teacher worked and then failed for longer than the client's patience. A rerun goes on from here."""


@dataclass(frozen=True)
class Request:
    """One call to a teacher. Equal requests have equal keys, so a finished call is never repeated.

    Attributes:
        messages: chat messages, each with `role` and `content`.
        schema: JSON schema of the wanted reply, or None for plain text.
        schema_name: the schema's name, as the server's interface wants one.
        max_tokens: the most new tokens.
        temperature: 0 for greedy decoding.
        seed: seed of the sampling.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    schema_name: str = "reply"
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0

    def key(self) -> str:
        """Returns a hash of everything that decides the reply."""
        decisive = [
            self.messages,
            self.schema,
            self.schema_name,
            self.max_tokens,
            self.temperature,
            self.seed,
        ]
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """What a teacher answered.

    Attributes:
        text: the reply's text.
        finish_reason: "stop", "length" (unfinished), "refusal" (also filtered content), or "bad_request"
            (the server does not accept this request, for example because it is longer than its context).
        prompt_tokens: tokens read.
        completion_tokens: tokens written.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Teacher(Protocol):
    """Answers requests; several may be awaited at once."""

    async def complete(self, request: Request) -> Reply:
        """Answers one request.

        Raises:
            TeacherUnavailableError: if no call can succeed.
            TeacherStoppedError: if the teacher worked before and has stopped answering.
        """
        ...


@dataclass
class Usage:
    """Counts of calls and tokens, and their price.

    Attributes:
        calls: finished calls.
        cached: replies taken from the request cache instead.
        prompt_tokens: tokens read by the teacher.
        completion_tokens: tokens written by the teacher.
        retries: failed attempts by kind, such as "429" or "timeout".
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: dict[str, int] = field(default_factory=dict)

    def add(self, reply: Reply) -> None:
        """Counts one finished call."""
        self.calls += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens

    def add_retry(self, kind: str) -> None:
        """Counts one failed attempt."""
        self.retries[kind] = self.retries.get(kind, 0) + 1

    def cost(self, input_price: float, output_price: float) -> float:
        """Returns the price of all tokens; prices are for one million tokens."""
        return (self.prompt_tokens * input_price + self.completion_tokens * output_price) / 1e6
