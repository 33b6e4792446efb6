"""The store at scale: two-stage search against exact search over real memories enlarged by perturbation."""

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from clara.memory_clara import CorpusMemory
from torch import Tensor

from .enlarge import write_enlarged
from .process import peak_memory
from .report import Section, line
from .timing import WALL, Ratio, measure, ratio

QUESTIONS_AT_ONCE = 32
AT = 5
GAPS = ((1, 5), (5, 6), (5, 10), (5, 50))
NEEDED = {"speed": 50.0, "recall": 0.99, "bytes": 64.0, "opening": 1.0}


@dataclass(frozen=True)
class Plan:
    """What the benchmark does.

    Attributes:
        folder: Where the stores go; the largest one stays.
        sizes: Passages of each store, ascending.
        kind: Kind of index; None: by size.
        dimensions: Numbers of a sketch.
        perturbation: As of `enlarge.Enlarger`.
        dtype: Format of the stored memories.
        repeats: Rounds of the timing.
        show_progress: Show progress bars.
    """

    folder: Path
    sizes: tuple[int, ...]
    kind: str | None = None
    dimensions: int = 256
    perturbation: str = "noise"
    dtype: str = "bfloat16"
    repeats: int = 3
    show_progress: bool = False


def bench_store(real: CorpusMemory, asked: Tensor, learned: Tensor, tests: Tensor, plan: Plan) -> Section:
    """Measures every size; ratios and facts are those of the largest.

    Args:
        real: Memories of real documents.
        asked: (B, M, H) memories of real questions, which are timed and whose recall is reported.
        learned: (T, M, H) memories of other questions, of which the index learns.
        tests: (T', M, H) memories of others again, which choose its effort.
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
        found = measure_size(last, real, asked, {"questions": learned, "tests": tests}, size, plan)
        curve.append(found["curve"])
        lines += found["lines"]
    facts = {**found["facts"], "gaps of the cosines, real": gaps(real, asked)}
    facts["curve"] = json.dumps(curve)
    title = f"Two-stage search, up to {max(plan.sizes):,} passages"
    return Section("store", title, lines, found["ratios"], facts)


def measure_size(
    folder: Path, real: CorpusMemory, asked: Tensor, teaching: dict[str, Tensor], size: int, plan: Plan
) -> dict[str, Any]:
    """Writes a store of this size, indexes it, opens it, searches it both ways."""
    seconds, start = {}, time.perf_counter()
    if not (folder / "corpus_memory.json").exists():
        write_enlarged(folder, real, size, plan.perturbation, plan.dtype, show_progress=plan.show_progress)
    seconds["writing"] = time.perf_counter() - start
    start = time.perf_counter()
    with peak_memory() as building:
        CorpusMemory.from_pretrained(folder, verify=False).build_index(
            plan.kind, plan.dimensions, **teaching, show_progress=plan.show_progress
        )
    seconds["building the index"] = time.perf_counter() - start
    start = time.perf_counter()
    memory = CorpusMemory.from_pretrained(folder)
    if memory.index is None:
        raise RuntimeError(f"{folder} lost its index.")
    seconds["opening"] = time.perf_counter() - start
    with peak_memory() as searching:
        memory.search(asked[:1], AT)
    marks = time_search(memory, asked, plan.repeats)
    memory_use = {"private bytes at the peak of building the index": building.most}
    memory_use["private bytes that the first search leaves"] = searching.left
    facts = {**describe(folder, memory, asked, len(real)), **memory_use}
    facts["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    facts["opening reached (1 s)"] = seconds["opening"] < NEEDED["opening"]
    medians = {name: statistics.median(values) / len(asked) for name, values in marks.items()}
    curve = {"passages": size, **medians, **seconds, "peak": building.most}
    shown = [
        line(f"{size:,} passages, {name}", values, {"questions": len(asked)})
        for name, values in marks.items()
    ]
    return {"lines": shown, "ratios": ratios(marks), "facts": facts, "curve": curve}


def describe(folder: Path, memory: CorpusMemory, query: Tensor, real: int) -> dict[str, Any]:
    """What the index is, what it finds of the exact five, and what it takes of RAM."""
    index, size = memory.index, len(memory)
    deep = memory.search(query, min(50, size), exact=True)
    exact = deep[1][:, :AT]
    recall = recall_at(memory.search(query, AT, exact=False)[1], exact)
    files = [path for path in folder.iterdir() if path.name.startswith(("index-", "sketch-"))]
    stored = sum(path.stat().st_size for path in files) / size - index.sketch_bytes
    return {
        "passages": size,
        "real passages": min(size, real),
        "dtype of the memories": memory.stored_dtype,
        "kind of index": index.kind,
        "candidates of a question": index.count_for(AT),
        "cells looked at": f"{index.effort.cells} of {index.num_cells}",
        "codes ordered anew by sketches": index.effort.reordered,
        "recall@5 when built": json.dumps(index.recall),
        f"recall@5 of the {len(query)} questions timed": recall,
        "recall reached (0.99)": recall >= NEEDED["recall"],
        "bytes of RAM a passage, codes and projection wholly in RAM": stored,
        "bytes a passage of sketches on disk, read where they are touched": index.sketch_bytes,
        "bytes reached (64)": stored <= NEEDED["bytes"],
        "gaps of the cosines, enlarged": gaps_of(deep[0]),
        "real passages among the exact five": float((exact < real).float().mean()),
    }


def time_search(memory: CorpusMemory, query: Tensor, repeats: int) -> dict[str, list[float]]:
    """Seconds of each round: exact in blocks of 32 questions; two-stage right after it, and once more.

    An exact search of a store larger than RAM drives the candidates' rows out of it, so the first two-stage
    search has to read them from the disk; the second has them in RAM.
    """
    parts, ones = query.split(QUESTIONS_AT_ONCE), query.split(1)

    def search(pieces: Sequence[Tensor], exact: bool) -> float:
        start = time.perf_counter()
        for piece in pieces:
            memory.search(piece, AT, exact=exact)
        return time.perf_counter() - start

    def run(_: int) -> dict[str, float]:
        return {
            "exact, 32 questions at a time": search(parts, True),
            "two-stage after it, 32 at a time": search(parts, False),
            "two-stage again, 32 at a time": search(parts, False),
            "two-stage, one question at a time": search(ones, False),
        }

    marks = measure({"search": run}, repeats, torch.device("cpu"))["search"]
    return {name: values for name, values in marks.items() if name != WALL}


def ratios(marks: dict[str, list[float]]) -> list[Ratio]:
    """How many times as long the exact search takes."""
    exact, *others = marks
    return [ratio(f"exact / {name}", marks[exact], marks[name], NEEDED["speed"]) for name in others]


def recall_at(found: Tensor, exact: Tensor) -> float:
    """Mean share of the exact rows (B, K) that were found (B, K)."""
    return float((found.unsqueeze(1) == exact.unsqueeze(2)).any(dim=2).float().mean())


def gaps(memory: CorpusMemory, query: Tensor) -> str:
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
