"""Measures the client: throughput against a slow server, and memory over many documents.

Run as `python -m clara.data.synthesis.benchmark`. The server runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from .machine import synthesize_document
from .scripted_server import ScriptedServer
from .scripted_teacher import ScriptedTeacher
from .settings import SynthesisSettings
from .teacher import Teacher
from .teachers import TeacherSettings, open_teacher
from .worker import Item, run_rank


class _Job:
    """Makes the question signals of one document."""

    async def run(self, item: Item, teacher: Teacher) -> tuple[dict[str, Any], bool]:
        outcome = await synthesize_document(item.id, item.text, teacher, SynthesisSettings(("simple",)))
        return outcome.to_row(), outcome.accepted


def documents(count: int) -> Iterator[Item]:
    """Yields documents that the scripted teacher can ask about."""
    for n in range(count):
        text = (
            f"The tower of Town {n} was built in {1000 + n % 999} by Anna Smith. It has {n % 97 + 30} steps."
        )
        yield Item(str(n), text, {})


def measure_throughput(delay: float, concurrency: int, count: int) -> dict[str, float]:
    """Runs documents against a server that answers after `delay` seconds.

    Returns:
        `calls`, `seconds`, `cpu_seconds` of this process, `ideal_seconds` (calls times delay over
        concurrency) and `share_of_ideal`, the ideal over the seconds.
    """
    import openai  # noqa: F401  # loaded here, so that its import is not timed

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, delay))
    server.start()
    theirs.close()
    try:
        teacher = partial(open_teacher, TeacherSettings(ours.recv(), concurrency=concurrency))
        with tempfile.TemporaryDirectory() as folder:
            started, worked = time.perf_counter(), time.process_time()
            totals = run_rank(documents(count), _Job(), teacher, folder, items_at_once=concurrency)
            seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    finally:
        ours.send("end")
        server.join()
    ideal = totals["calls"] * delay / concurrency
    return {
        "calls": totals["calls"],
        "seconds": seconds,
        "cpu_seconds": cpu,
        "ideal_seconds": ideal,
        "share_of_ideal": ideal / seconds,
    }


def measure_memory(count: int, points: int = 5) -> dict[str, list[float]]:
    """Runs documents through the scripted teacher in this process.

    Returns:
        `documents` done and the process' `mebibytes` (its peak so far) at equal distances.
    """
    done, mebibytes = [], []

    def watched() -> Iterator[Item]:
        for number, item in enumerate(documents(count), start=1):
            yield item
            if number % (count // points) == 0:
                done.append(number)
                mebibytes.append(_peak_mebibytes())

    with tempfile.TemporaryDirectory() as folder:
        run_rank(watched(), _Job(), _scripted, folder)
    return {"documents": done, "mebibytes": mebibytes}


@asynccontextmanager
async def _scripted() -> AsyncIterator[Teacher]:
    yield ScriptedTeacher()


def _serve(connection: Connection, delay: float) -> None:
    """Runs the server in its process until told to end."""
    with ScriptedServer(delay) as server:
        connection.send(server.url)
        connection.recv()


def _peak_mebibytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(write: Callable[[str], Any] = sys.stdout.write) -> None:
    """Measures and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.5, help="seconds of the server for each call")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--documents", type=int, default=1280, help="documents of the throughput run")
    parser.add_argument("--memory-documents", type=int, default=100_000)
    given = parser.parse_args()
    result = {"throughput": measure_throughput(given.delay, given.concurrency, given.documents)}
    result["memory"] = measure_memory(given.memory_documents)
    write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
