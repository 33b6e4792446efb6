"""A load test: clients that ask one question after the other for a while, and what came of it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

PATIENCE = 1800  # seconds: a full queue takes a CPU several minutes


@dataclass
class Load:
    """What some clients saw.

    Attributes:
        clients: How many asked at once.
        seconds: How long they did.
        latencies: Seconds of every answered request.
        statuses: Responses by status; "error" counts connections that failed.
        tokens: Tokens written.
        answers: For each question the different answers that came.
        samples: What `watch` gave, once a second.
    """

    clients: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    answers: dict[str, set[str]] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Requests that were not answered with 200."""
        return sum(count for status, count in self.statuses.items() if status != "200")

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """The latency that `share` percent of the requests do not exceed; NaN without an answer."""
        return float(np.percentile(self.latencies, share)) if self.latencies else float("nan")

    def note(self, status: str) -> None:
        """Counts a response."""
        self.statuses[status] = self.statuses.get(status, 0) + 1


def run_load(
    url: str,
    questions: Sequence[str],
    clients: int,
    seconds: float,
    fields: Mapping[str, Any],
    watch: Callable[[], float] = lambda: 0.0,
) -> Load:
    """Lets clients ask for a while; each asks again as soon as it has its answer.

    Args:
        url: The server's address.
        questions: Asked in turns.
        clients: How many ask at once.
        seconds: For how long new requests begin; those begun are waited for.
        fields: Further fields of each request, `model` among them.
        watch: Called once a second, such as for the server's memory.
    """
    return asyncio.run(_load(url, questions, Load(clients), seconds, fields, watch))


async def _load(
    url: str,
    questions: Sequence[str],
    load: Load,
    seconds: float,
    fields: Mapping[str, Any],
    watch: Callable[[], float],
) -> Load:
    start = time.perf_counter()
    limits = httpx.Limits(max_connections=load.clients, max_keepalive_connections=load.clients)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as http:
        watching = asyncio.create_task(_watch(watch, load))
        asking = [
            _client(http, questions[number:] + questions[:number], load, start + seconds, fields)
            for number in (client % len(questions) for client in range(load.clients))
        ]
        await asyncio.gather(*asking)
        watching.cancel()
    load.seconds = time.perf_counter() - start
    return load


async def _watch(watch: Callable[[], float], load: Load) -> None:
    while True:
        load.samples.append(watch())
        await asyncio.sleep(1)


async def _client(
    http: httpx.AsyncClient, questions: Sequence[str], load: Load, end: float, fields: Mapping[str, Any]
) -> None:
    number = 0
    while time.perf_counter() < end:
        question = questions[number % len(questions)]
        number += 1
        await ask(http, question, load, fields)


async def ask(http: httpx.AsyncClient, question: str, load: Load, fields: Mapping[str, Any]) -> None:
    """One request, noted in `load`."""
    body = {"messages": [{"role": "user", "content": question}], **fields}
    begun = time.perf_counter()
    try:
        response = await http.post("/v1/chat/completions", json=body)
    except httpx.HTTPError:
        load.note("error")
        return
    load.note(str(response.status_code))
    if response.status_code == 200:
        load.latencies.append(time.perf_counter() - begun)
        body = response.json()
        load.tokens += body["usage"]["completion_tokens"]
        load.answers.setdefault(question, set()).add(body["choices"][0]["message"]["content"])


def run_burst(url: str, question: str, requests: int, fields: Mapping[str, Any]) -> tuple[Load, int]:
    """Sends many requests at once; what came of them, and how many 429s named no time to try again."""
    return asyncio.run(_burst(url, question, requests, fields))


async def _burst(url: str, question: str, requests: int, fields: Mapping[str, Any]) -> tuple[Load, int]:
    load, silent = Load(requests), 0
    start = time.perf_counter()
    limits = httpx.Limits(max_connections=requests)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as http:

        async def refused(response: httpx.Response) -> None:
            nonlocal silent
            silent += response.status_code == 429 and "retry-after" not in response.headers

        http.event_hooks = {"response": [refused]}
        await asyncio.gather(*(ask(http, question, load, fields) for _ in range(requests)))
    load.seconds = time.perf_counter() - start
    return load, silent
