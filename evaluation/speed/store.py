"""The store at scale: an index against exact search, and every figure that a large store has to reach."""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore
from clara.store.build import BuildPlan, StoreBuild, encode_fields
from clara.store.indexes import read_effort, recall_at
from clara.store.schema import empty_fields, merge_fields
from torch import Tensor

from .enlarge import BLOCK_ROWS, enlarged, part_of
from .process import peak_memory
from .report import Section, line
from .timing import WALL, Ratio, measure, ratio

QUESTIONS_AT_ONCE = 32
AT = 5
APPENDED = 1000
GAPS = ((1, 5), (5, 6), (5, 10), (5, 50))
BLOCKS_A_PART = 16
NEEDED = {"speed": 10.0, "recall": 0.99, "bytes": 64.0, "question": 0.0041, "opening": 0.1, "append": 1.0}
NEEDED_GATHER = 0.005


@dataclass(frozen=True)
class Plan:
    """What the benchmark does.

    Attributes:
        folder: Where the stores go; the largest one stays.
        sizes: Passages of each store, ascending.
        repeats: Rounds of the timing.
        index: Options of `build_index`.
        tick: Called with the passages of every block that is written.
    """

    folder: Path
    sizes: tuple[int, ...]
    repeats: int = 3
    index: dict[str, Any] | None = None
    tick: Callable[[int], Any] | None = None


def bench_store(real: CorpusMemory, asked: Tensor, teaching: Tensor, plan: Plan) -> Section:
    """Measures every size; ratios and facts are those of the largest.

    Args:
        real: Memories of real documents.
        asked: (B, D) search vectors of real questions, which are timed and whose recall is reported.
        teaching: (Q, D) search vectors of other questions, which choose the effort of the index.
        plan: Sizes and settings.

    Raises:
        ValueError: If there are no questions, or no sizes.
    """
    if not len(asked) or not plan.sizes:
        raise ValueError(f"a benchmark needs questions and a size, got {len(asked)} and {plan.sizes}.")
    lines, curve, last = [], [], None
    for size in sorted(plan.sizes):
        if last is not None:
            shutil.rmtree(last)
        last = plan.folder / f"store-{size}"
        found = measure_size(last, real, asked, teaching, size, plan)
        curve.append(found["curve"])
        lines += found["lines"]
    facts = {**found["facts"], "gaps of the cosines, real": gaps(real, asked), "curve": json.dumps(curve)}
    title = f"The store, up to {max(plan.sizes):,} passages"
    return Section("store", title, lines, found["ratios"], facts)


def write_store(folder: Path, real: CorpusMemory, size: int, plan: Plan) -> None:
    """Builds a store of this size in parts, unless it is there."""
    build = StoreBuild(folder)
    if CorpusStore.open(folder).version and not build.begun:
        return
    blocks = 1 + max(0, -(-(size - len(real)) // BLOCK_ROWS))
    sizes = (real.hidden_size, real.vectors.shape[1])
    fields = encode_fields(merge_fields(empty_fields(), [{"number": 0}]))
    parts = -(-blocks // BLOCKS_A_PART)
    source = {"size": size}
    build.begin(BuildPlan(parts, real.fingerprint, real.base, real.dtype, *sizes, fields, source))
    blocks = enlarged(real, size)
    for part in range(parts):
        build.write(part, _ticked(islice(blocks, BLOCKS_A_PART), plan))
    build.commit()


def _ticked(blocks: Any, plan: Plan) -> Any:
    for block in blocks:
        yield block
        if plan.tick is not None:
            plan.tick(len(block))


def measure_size(
    folder: Path, real: CorpusMemory, asked: Tensor, teaching: Tensor, size: int, plan: Plan
) -> dict[str, Any]:
    """Writes a store of this size, indexes it, opens it, searches it both ways, appends, reads."""
    seconds, start = {}, time.perf_counter()
    write_store(folder, real, size, plan)
    seconds["writing"] = time.perf_counter() - start
    start = time.perf_counter()
    with peak_memory() as building:
        CorpusStore.open(folder).build_index(teaching, **(plan.index or {}))
    seconds["building the index"] = time.perf_counter() - start
    start = time.perf_counter()
    store = CorpusStore.open(folder)
    seconds["opening"] = time.perf_counter() - start
    with peak_memory() as searching:
        store.search(asked, AT, exact=False)
    marks = time_search(store, asked, plan.repeats)
    facts = {
        **describe(store, asked, len(real)),
        "private bytes at the peak of building the index": building.most,
        "private bytes a passage that searches by the index leave": searching.left / size,
        f"bytes reached ({NEEDED['bytes']:g})": searching.left / size <= NEEDED["bytes"],
        **time_rows(store, real, seconds),
    }
    facts["seconds"] = {name: round(value, 4) for name, value in seconds.items()}
    medians = {name: statistics.median(values) / len(asked) for name, values in marks.items()}
    facts["seconds a question"] = {name: round(value, 5) for name, value in medians.items()}
    facts["question reached (4.1 ms)"] = medians[BY_INDEX] <= NEEDED["question"]
    curve = {"passages": size, **medians, **seconds, "peak": building.most}
    shown = [
        line(f"{size:,} passages, {name}", values, {"questions": len(asked)})
        for name, values in marks.items()
    ]
    return {"lines": shown, "ratios": ratios(marks), "facts": facts, "curve": curve}


def time_rows(store: CorpusStore, real: CorpusMemory, seconds: dict[str, float]) -> dict[str, Any]:
    """Times reading five memories and appending a thousand passages, which are deleted again."""
    rows = [torch.randperm(len(store))[:AT].tolist() for _ in range(20)]
    store.gather(rows[0])
    start = time.perf_counter()
    for five in rows:
        store.gather(five)
    seconds["reading 5 memories"] = (time.perf_counter() - start) / len(rows)
    count = min(APPENDED, len(real))
    new = part_of(real, torch.arange(count), real.vectors[:count], [f"new {row}" for row in range(count)])
    start = time.perf_counter()
    store.append(new)
    seconds[f"appending {count:,} passages"] = appended = time.perf_counter() - start
    store.delete(new.document_ids)
    return {
        "opening reached (0.1 s)": seconds["opening"] < NEEDED["opening"],
        "append reached (1 s)": appended < NEEDED["append"],
        "gather reached (5 ms)": seconds["reading 5 memories"] < NEEDED_GATHER,
    }


def describe(store: CorpusStore, query: Tensor, real: int) -> dict[str, Any]:
    """What the index finds of the exact five, and what the neighbours are like."""
    deep = store.search(query, min(50, len(store)), exact=True)
    exact = deep[1][:, :AT]
    recall = recall_at(store.search(query, AT, exact=False)[1], exact)
    effort = read_effort(store._dataset)
    return {
        "passages": len(store),
        "real passages": min(len(store), real),
        "format of the memories": store.dtype,
        "cells looked at": effort.nprobes,
        "candidates of a question": AT * effort.refine,
        f"recall@5 of the {len(query)} questions timed": recall,
        "recall reached (0.99)": recall >= NEEDED["recall"],
        "gaps of the cosines, enlarged": gaps_of(deep[0]),
        "real passages among the exact five": float((exact < real).float().mean()),
    }


EXACT, BY_INDEX = "exact, 32 questions at a time", "by the index, 32 at a time"


def time_search(store: CorpusStore, query: Tensor, repeats: int) -> dict[str, list[float]]:
    """Seconds of each round: exact and by the index in blocks of 32 questions, and one question at a time."""
    parts, ones = query.split(QUESTIONS_AT_ONCE), query.split(1)

    def search(pieces: Sequence[Tensor], exact: bool) -> float:
        start = time.perf_counter()
        for piece in pieces:
            store.search(piece, AT, exact=exact)
        return time.perf_counter() - start

    def run(_: int) -> dict[str, float]:
        return {
            EXACT: search(parts, True),
            BY_INDEX: search(parts, False),
            "by the index, one question at a time": search(ones, False),
        }

    marks = measure({"search": run}, repeats, torch.device("cpu"))["search"]
    return {name: values for name, values in marks.items() if name != WALL}


def ratios(marks: dict[str, list[float]]) -> list[Ratio]:
    """How many times as long the exact search takes."""
    exact, by_index, ones = marks.values()
    return [
        ratio(f"exact / {BY_INDEX}", exact, by_index, NEEDED["speed"]),
        ratio("exact / by the index, one question at a time", exact, ones),
    ]


def gaps(memory: Any, query: Tensor) -> str:
    """Median gaps between the cosines of the nearest passages, searched exactly."""
    return gaps_of(memory.search(query, min(50, len(memory)), exact=True)[0])


def gaps_of(scores: Tensor) -> str:
    """Median gaps between given places of sorted scores (B, K)."""
    there = [(one, two) for one, two in GAPS if two <= scores.shape[1]]
    return ", ".join(
        f"{one}–{two}: {float((scores[:, one - 1] - scores[:, two - 1]).median()):.5f}" for one, two in there
    )


def plot_curve(curve: Sequence[dict[str, float]], path: Path) -> None:
    """Writes a PNG: seconds a question of every search, and seconds of building, over passages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    search, build = figure.subplots(1, 2)
    passages = [row["passages"] for row in curve]
    for name in [key for key in curve[0] if "question" in key or "at a time" in key]:
        search.loglog(passages, [row[name] for row in curve], "o-", label=name)
    for name in ("writing", "building the index", "opening"):
        build.loglog(passages, [max(row[name], 1e-4) for row in curve], "o-", label=name)
    search.set(xlabel="passages", ylabel="seconds a question", title="search")
    build.set(xlabel="passages", ylabel="seconds", title="store and index")
    for axes in (search, build):
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
