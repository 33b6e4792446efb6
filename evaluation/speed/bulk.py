"""Bulk building: several processes of one thread against one process of one thread and of as many threads.

Every build is of the same documents in the same parts, by fresh processes that open the model and then wait
for each other: what is timed runs from there to the finished store. Whether the stores have the same rows is
checked.
"""

import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, NamedTuple

import torch
from clara.data.bulk.build import build_parts
from clara.store.build import BuildPlan, StoreBuild

from .report import Section, line
from .timing import WALL, Run, measure, ratio

START = "spawn"
LONGEST_START = 900.0
NEEDED = 1.7
COMPRESSING = "compressing"
PARTS_EACH = 4


@dataclass(frozen=True)
class Variant:
    """How a store is built: by how many processes, each of how many threads."""

    processes: int
    threads: int

    @property
    def name(self) -> str:
        """What a report calls it."""
        return (
            f"{_count(self.processes, 'process', 'processes')} of {_count(self.threads, 'thread', 'threads')}"
        )


class Built(NamedTuple):
    """A finished build: seconds, passages, and the digest of the checksums of all rows."""

    seconds: float
    passages: int
    digest: str


def variants(processes: int) -> tuple[Variant, Variant, Variant]:
    """One process of one thread; `processes` of one thread; one process of `processes` threads."""
    return Variant(1, 1), Variant(processes, 1), Variant(1, processes)


def bench_bulk(
    plan: BuildPlan, open_model: Callable[[], Any], folder: Path, processes: int = 2, repeats: int = 3
) -> Section:
    """Builds the store of a plan in all three ways, in turns.

    Args:
        plan: The documents and their parts; its threads are replaced by those of each way.
        open_model: Opens the model; it travels to the processes.
        folder: Where the stores go; they are removed.
        processes: Processes, and threads of the one process.
        repeats: Rounds.

    Raises:
        ValueError: If there are fewer than two processes, or fewer parts than processes.
        RuntimeError: If a process fails.
    """
    if processes < 2 or plan.parts < processes:
        raise ValueError(
            f"`processes` must be from 2 to the {plan.parts} parts of the plan, got {processes}."
        )
    built: dict[str, Built] = {}

    def runner(way: Variant) -> Run:
        def run(_: int) -> dict[str, float]:
            output = folder / f"{way.processes}x{way.threads}"
            shutil.rmtree(output, ignore_errors=True)
            built[way.name] = build_once(output, plan, way, open_model)
            shutil.rmtree(output)
            return {COMPRESSING: built[way.name].seconds}

        return run

    ways = variants(processes)
    marks = measure({way.name: runner(way) for way in ways}, repeats, torch.device("cpu"), warmup=0)
    return _section(plan, ways, marks, built)


def _section(
    plan: BuildPlan,
    ways: tuple[Variant, Variant, Variant],
    marks: Mapping[str, Mapping[str, list[float]]],
    built: Mapping[str, Built],
) -> Section:
    alone, several, threaded = (way.name for way in ways)
    seconds = {name: found[COMPRESSING] for name, found in marks.items()}
    passages, needed = built[alone].passages, NEEDED if ways[1].processes == 2 else None
    return Section(
        "build",
        f"Bulk building, {plan.source['corpus']['documents']:,} documents in {plan.parts} parts",
        [line(name, values, {"passages": passages}) for name, values in seconds.items()],
        [
            ratio(f"{alone} / {several}", seconds[alone], seconds[several], needed),
            ratio(f"{threaded} / {several}", seconds[threaded], seconds[several]),
        ],
        {
            "passages": passages,
            "format": plan.dtype,
            "passages compressed at once": plan.source["batch_size"],
            f"same rows as {alone}": {
                name: built[name].digest == built[alone].digest for name in (several, threaded)
            },
            "seconds of starting and clearing up, not counted": {
                name: min(one - other for one, other in zip(found[WALL], found[COMPRESSING], strict=True))
                for name, found in marks.items()
            },
        },
    )


def build_once(output: Path, plan: BuildPlan, variant: Variant, open_model: Callable[[], Any]) -> Built:
    """Builds a store in fresh processes; its seconds count from when all have the model.

    Raises:
        RuntimeError: If a process fails.
    """
    build = StoreBuild(output)
    build.begin(replace(plan, source={**plan.source, "threads": variant.threads}))
    context = multiprocessing.get_context(START)
    ready = context.Barrier(variant.processes + 1)
    workers = [
        context.Process(
            target=build_share, args=(output, rank, variant.processes, plan.parts, open_model, ready)
        )
        for rank in range(variant.processes)
    ]
    for worker in workers:
        worker.start()
    try:
        ready.wait(LONGEST_START)
        start = time.perf_counter()
    except BrokenBarrierError as error:
        raise RuntimeError("A process of the benchmark could not open the model; see above.") from error
    finally:
        for worker in workers:
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("A process of the benchmark failed; see above.")
    store = build.commit()
    seconds = time.perf_counter() - start
    checksums = store._dataset.to_table(columns=["crc"])["crc"].to_numpy()
    return Built(seconds, len(store), hashlib.sha256(checksums.tobytes()).hexdigest())


def build_share(
    output: Path, rank: int, processes: int, parts: int, open_model: Callable[[], Any], ready: Any
) -> None:
    """What one process does: opens the model, waits for the others, builds every n-th part."""
    try:
        model = open_model()
    except BaseException:
        ready.abort()
        raise
    ready.wait(LONGEST_START)
    build_parts(output, range(rank, parts, processes), lambda: model)


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
