"""Custom handler for Hugging Face Inference Endpoints; `clara publish --endpoint` puts it beside the model.

Request:  {"inputs": ITEM or [ITEM, …], "parameters": {"retrieval_top_k": 2, "max_new_tokens": 64, …}}
ITEM:     {"question": TEXT or [TEXT, …], "documents": [TEXT or {"text", "id", "title"}, …]}
          or {"question": …, "memory": NAME}
Answer:   {"answer": TEXT, "documents": [{"id", "score", "text"}, …]}, a list of them for a list
Error:    {"error": {"code", "status", "message"}}; no exception leaves a call

NAME is a sub-folder of `memories/` in the repository, or an entry of the environment variable
CLARA_MEMORIES ("name=org/memory,org/other"); nothing else is ever opened. Memories are opened once, at the
start. CLARA_LIMITS ('{"documents": 64}') changes the limits of `endpoint_requests.Limits`. A request writes
nothing to disk, and nothing of its content is logged here.

The platform's own container sends one JSON body for each request, so it cannot stream. A server of your own
can send the events of `EndpointHandler.stream`.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, TextIteratorStreamer, pipeline

from .endpoint_requests import RequestReader

MEMORIES = "memories"
STORE = "memory.json"


class EndpointHandler:
    """Answers questions from inline documents or from the memories that the endpoint was given.

    Args:
        path: Folder or Hub id of the model repository.
        memories: Names and what they open (folder or dataset repository); by default those of the folder
            `memories/` and of CLARA_MEMORIES.
        limits: Fields of `Limits`; by default those of CLARA_LIMITS.

    Raises:
        ValueError: If a memory is another model's, or a limit is no positive whole number.
    """

    def __init__(
        self,
        path: str = "",
        memories: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        path = str(path)
        self._rag = pipeline(model=path, trust_remote_code=True)
        named = find_memories(path) if memories is None else memories
        opened = {name: self._rag.model.load_memory(source) for name, source in named.items()}
        limits = json.loads(os.getenv("CLARA_LIMITS", "{}")) if limits is None else limits
        self._reader = RequestReader(opened, **limits)
        self._places = threading.BoundedSemaphore(self._reader.limits.requests)

    def __call__(self, data: Any) -> dict[str, Any] | list[Any]:
        """Answers a request, in the forms that the head of this file gives; threads may call it at once."""
        try:
            with self._place():
                items, parameters = self._reader.read(data)
                answers = self._answer(items, parameters)
                return answers if isinstance(data["inputs"], list) else answers[0]
        except Exception as error:
            return self._reader.describe(error)

    def stream(self, data: Any) -> Iterator[dict[str, Any]]:
        """Answers a request of one question in events, for a server that can send them.

        Closing the iterator (the client left) ends the generation.

        Yields:
            `{"token": TEXT}` while the answer is written, then the whole answer as `__call__` returns it; or
            an error as `__call__` returns it.
        """
        try:
            with self._place():
                yield from self._events(*self._reader.read_one(data))
        except Exception as error:
            yield self._reader.describe(error)

    def _events(self, items: list[dict], parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        stop, last = threading.Event(), []
        streamer = TextIteratorStreamer(self._rag.model.processor.tokenizer, skip_special_tokens=True)
        options = {"streamer": streamer, "stopping_criteria": [_Stopped(stop)]}

        def work() -> None:
            try:
                last.extend(self._answer(items, {**parameters, **options}))
            except Exception as error:
                last.append(self._reader.describe(error))
            finally:
                streamer.end()

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            yield from ({"token": text} for text in streamer if text)
        finally:
            stop.set()
            worker.join()
        yield last[0]

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places for requests; the model itself answers one at a time."""
        if not self._places.acquire(blocking=False):
            raise self._reader.busy()
        try:
            yield
        finally:
            self._places.release()

    def _answer(self, items: list[dict], parameters: dict[str, Any]) -> list[Any]:
        if all("documents" in item and isinstance(item["question"], str) for item in items):
            return self._rag(items, **parameters)
        return [
            self._rag(item["question"], item.get("documents"), item.get("memory"), **parameters)
            for item in items
        ]


class _Stopped(StoppingCriteria):
    """Ends a generation whose reader has left."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._stop.is_set(), device=input_ids.device)


def find_memories(path: str) -> dict[str, str]:
    """Names and sources of the memories in the repository's folder and in CLARA_MEMORIES."""
    stores = sorted(Path(path, MEMORIES).glob(f"*/{STORE}"))
    entries = [entry.strip() for entry in os.getenv("CLARA_MEMORIES", "").split(",") if entry.strip()]
    parts = [entry.partition("=") for entry in entries]
    given = {name: source or name for name, _, source in parts}
    return {**{store.parent.name: str(store.parent) for store in stores}, **given}
