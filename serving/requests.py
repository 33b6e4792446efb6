"""One question on its way through the engine: what was asked, how to answer it, whom to tell."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FOUND, PIECE, DONE, FAILED = "found", "piece", "done", "failed"


@dataclass(frozen=True)
class Options:
    """How an answer is written.

    Attributes:
        max_new_tokens: Most tokens of the answer.
        min_new_tokens: The answer does not end before so many.
        temperature: 0 takes the likeliest token; above, tokens are drawn.
        top_p: Draws only among the likeliest tokens that have this share of the probability together.
        seed: Of the draws; None draws anew each time.
        stop: Texts at which the answer ends, without them.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """What the engine tells of a request, in this order: FOUND, any number of PIECEs, then DONE; or FAILED.

    Attributes:
        kind: FOUND (`value`: a `Found`), PIECE (a text), DONE (a `Finished`) or FAILED (the exception).
        value: What came of it.
    """

    kind: str
    value: Any


@dataclass(frozen=True)
class Found:
    """The K chosen passages, best first, and the length of the prompt."""

    document_ids: list[str]
    parents: list[str]
    scores: list[float]
    texts: list[str]
    prompt_tokens: int


@dataclass(frozen=True)
class Finished:
    """A whole answer: its text, why it ended ("stop" or "length"), how many tokens were made.

    With `reading` "each", `log_prob` is their mean log probability, and `odds` the log odds that what was
    read holds an answer at all.
    """

    answer: str
    reason: str
    tokens: int
    log_prob: float = 0.0
    odds: float = 0.0


@dataclass(eq=False)
class EngineRequest:
    """A question for the engine.

    Attributes:
        question: The question.
        memory: The `CorpusMemory` to answer from.
        deliver: Called with each `Event`, in the engine's thread; it must not block or raise.
        retrieval_top_k: K passages; `min(config.retrieval_top_k, N)` by default.
        options: How the answer is written.
        search: `where` and `hybrid`, as of `model.retrieve`.
        reading: As of `model.generate`; "each" writes several answers at once, greedily.
        row: Which of them this one is.
        submitted: When it came, in seconds of `time.perf_counter`.
    """

    question: str
    memory: Any
    deliver: Callable[[Event], None]
    retrieval_top_k: int | None = None
    options: Options = field(default_factory=Options)
    search: dict[str, Any] = field(default_factory=dict)
    reading: str = "together"
    row: int = 0
    submitted: float = field(default_factory=time.perf_counter)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Gives the question up: it leaves queue or batch before the next step, and is told no more."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cancelled.is_set()

    def tell(self, kind: str, value: Any) -> None:
        """Delivers an event, unless the request was cancelled."""
        if not self.cancelled:
            self.deliver(Event(kind, value))
