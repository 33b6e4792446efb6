"""The store at scale: an index against exact search, over a real corpus that is enlarged to any size.

The first rows are the real ones; each further row is made of two of them, x and z, on the unit sphere:
y = m + cos(t) (x - m) + sin(t) (z - m) with the mean m and a random angle t, so that no two rows are equal.
Mean and covariance stay those of the real vectors, as if more were drawn from the same source: the gaps
between a question's neighbours shrink with the size as they do in a larger real corpus.

Letters of the shapes: B questions, K chosen, n rows, N real passages, D width of a search vector.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from clara.memory_clara import CorpusMemory
from clara.store import CorpusStore
from clara.store.build import BuildPlan, StoreBuild, encode_fields
from clara.store.indexes import read_effort, recall_at
from clara.store.schema import empty_fields, merge_fields
from torch import Tensor
from torch.nn.functional import normalize

from .report import Section, ratio, section, variant
from .timing import CPU, growth, measure

BLOCK_ROWS = 2048
QUESTIONS_AT_ONCE = 32
AT = 5
APPENDED = 1000
GAPS = ((1, 5), (5, 6), (5, 10), (5, 50))
SPEED, RECALL = 10.0, 0.99
EXACT, BY_INDEX = "exact, 32 questions at a time", "by the index, 32 at a time"
ONE_BY_ONE = "by the index, one question at a time"
READING, APPENDING = f"reading {AT} memories", f"appending {APPENDED:,} passages"
BYTES_LEFT = "private bytes a passage that searches by the index leave"
AT_MOST = {"opening": 0.1, APPENDING: 1.0, READING: 0.005, BY_INDEX: 0.0041, BYTES_LEFT: 64.0}


@dataclass(frozen=True)
class Plan:
    """What the benchmark does."""

    folder: Path  # where the stores go; the largest one stays
    sizes: tuple[int, ...]  # passages of each store
    repeats: int = 3  # rounds of the timing
    index: str = "IVF_RQ"  # kind of the index, as Lance calls it
    tick: Callable[[int], Any] = lambda passages: None  # called with the passages of every block


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
    variants, curve, last = [], [], None
    for size in sorted(plan.sizes):
        if last is not None:
            shutil.rmtree(last)
        last = plan.folder / f"store-{size}"
        marks, facts, row = measure_size(last, real, asked, teaching, size, plan)
        curve.append(row)
        variants += [
            variant(f"{size:,} passages, {name}", values, questions=len(asked))
            for name, values in marks.items()
        ]
    nearest = real.search(asked, min(50, len(real)), exact=True)[0]
    facts = {**facts, "gaps of the cosines, real": gaps(nearest), "curve": json.dumps(curve)}
    ratios = [
        ratio(f"exact / {BY_INDEX}", marks[EXACT], marks[BY_INDEX], SPEED),
        ratio(f"exact / {ONE_BY_ONE}", marks[EXACT], marks[ONE_BY_ONE]),
    ]
    return section("store", f"The store, up to {max(plan.sizes):,} passages", variants, ratios, facts)


def measure_size(
    folder: Path, real: CorpusMemory, asked: Tensor, teaching: Tensor, size: int, plan: Plan
) -> tuple[dict[str, list[float]], dict[str, Any], dict[str, float]]:
    """Writes a store of this size, indexes it, opens it, searches it both ways, appends, reads.

    Returns:
        Seconds of the searches of every round by name, facts, and a row of the curve.
    """
    seconds: dict[str, float] = {}
    clocked = partial(clock, seconds)
    with clocked("writing"):
        write_store(folder, real, size, plan)
    with growth() as building, clocked("building the index"):
        CorpusStore.open(folder).build_index(teaching, index_type=plan.index)
    with clocked("opening"):
        store = CorpusStore.open(folder)
    with growth() as searching:
        store.search(asked, AT, exact=False)
    marks = measure({"search": lambda _: search_seconds(store, asked)}, plan.repeats, CPU)
    del marks["search"]
    facts = describe(store, asked, len(real))
    time_rows(store, real, clocked)
    medians = {name: statistics.median(values) / len(asked) for name, values in marks.items()}
    found = {**seconds, **medians, BYTES_LEFT: searching.left / size}
    facts |= {
        "private bytes at the peak of building the index": building.most,
        BYTES_LEFT: found[BYTES_LEFT],
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "seconds a question": {name: round(value, 5) for name, value in medians.items()},
        "reached": {f"{name}, at most {most:g}": found[name] <= most for name, most in AT_MOST.items()},
    }
    return marks, facts, {"passages": size, **medians, **seconds, "peak": building.most}


@contextmanager
def clock(seconds: dict[str, float], name: str, times: int = 1) -> Iterator[None]:
    """Notes how many seconds the block took, a part of it if it does the same several times."""
    start = time.perf_counter()
    yield
    seconds[name] = (time.perf_counter() - start) / times


def write_store(folder: Path, real: CorpusMemory, size: int, plan: Plan) -> None:
    """Builds a store of this size, unless it is there."""
    build = StoreBuild(folder)
    if CorpusStore.open(folder).version and not build.begun:
        return
    widths = (real.hidden_size, real.vectors.shape[1])
    fields = encode_fields(merge_fields(empty_fields(), [{"number": 0}]))
    build.begin(BuildPlan(1, real.fingerprint, real.base, real.dtype, *widths, fields, {"size": size}))

    def blocks() -> Iterator[CorpusMemory]:
        for block in enlarged(real, size):
            yield block
            plan.tick(len(block))

    build.write(0, blocks())
    build.commit()


def enlarged(real: CorpusMemory, count: int) -> Iterator[CorpusMemory]:
    """Memories of `count` passages in all, block by block: the real ones (the first `count`), then mixtures.

    A mixture has the stored memory of a real passage and a search vector of its own.
    """
    kept = min(count, len(real))
    yield part_of(real, torch.arange(kept), real.vectors[:kept], real.document_ids[:kept])
    for number, start in enumerate(range(kept, count, BLOCK_ROWS)):
        vectors, rows = mixed(real.vectors[:kept], number, min(BLOCK_ROWS, count - start))
        yield part_of(real, rows, vectors, [f"copy {row}" for row in range(start, start + len(rows))])


def mixed(real: Tensor, number: int, count: int) -> tuple[Tensor, Tensor]:
    """Block `number` of `count` mixtures: vectors (count, D), and the first real row (count,) of each.

    The same number gives the same block. A ValueError if there are fewer than two real vectors (N, D).
    """
    if len(real) < 2:
        raise ValueError(f"`real` must hold at least 2 vectors to enlarge, got {len(real)}.")
    generator = torch.Generator().manual_seed(number + 1)
    units = normalize(real.float(), dim=1)
    one = torch.randint(len(units), (count,), generator=generator)
    other = (one + torch.randint(1, len(units), (count,), generator=generator)) % len(units)
    turned = torch.pi / 8 * (1 + 2 * torch.rand(count, 1, generator=generator))  # neither x nor z, nearly
    mean, first, second = units.mean(dim=0), turned.cos(), turned.sin()
    vectors = mean + first * (units[one] - mean) + second * (units[other] - mean)
    return normalize(vectors, dim=1), one


def part_of(real: CorpusMemory, rows: Tensor, vectors: Tensor, names: list[str]) -> CorpusMemory:
    """The memories of some rows (n,) under other names, with other search vectors (n, D)."""
    memories = real.gather(rows)
    return CorpusMemory(
        torch.cat(memories),
        [real.texts[row] for row in rows.tolist()],
        names,
        [{"number": row} for row in rows.tolist()],
        vectors=vectors,
        fingerprint=real.fingerprint,
        base=real.base,
        dtype=real.dtype,
        offsets=torch.tensor([0, *map(len, memories)]).cumsum(0),
    )


def search_seconds(store: CorpusStore, query: Tensor) -> dict[str, float]:
    """Seconds of all questions: exact and by the index in blocks of 32, and one question at a time."""
    seconds: dict[str, float] = {}
    for name, size, exact in (
        (EXACT, QUESTIONS_AT_ONCE, True),
        (BY_INDEX, QUESTIONS_AT_ONCE, False),
        (ONE_BY_ONE, 1, False),
    ):
        with clock(seconds, name):
            for piece in query.split(size):
                store.search(piece, AT, exact=exact)
    return seconds


def time_rows(store: CorpusStore, real: CorpusMemory, clocked: Callable) -> None:
    """Times reading five memories and appending a thousand passages, which are deleted again."""
    rows = [torch.randperm(len(store))[:AT].tolist() for _ in range(20)]
    store.gather(rows[0])
    with clocked(READING, len(rows)):
        for five in rows:
            store.gather(five)
    chosen = torch.arange(APPENDED) % len(real)
    new = part_of(real, chosen, real.vectors[chosen], [f"new {row}" for row in range(APPENDED)])
    with clocked(APPENDING):
        store.append(new)
    store.delete(new.document_ids)


def describe(store: CorpusStore, query: Tensor, real: int) -> dict[str, Any]:
    """What the index finds of the exact five, and what the neighbours are like."""
    scores, indices = store.search(query, min(50, len(store)), exact=True)
    recall = recall_at(store.search(query, AT, exact=False)[0], scores[:, :AT])
    effort = read_effort(store._dataset)
    return {
        "passages": len(store),
        "real passages": min(len(store), real),
        "format of the memories": store.dtype,
        "cells looked at": effort.nprobes,
        "candidates of a question": AT * effort.refine,
        f"recall@5 of the {len(query)} questions timed": recall,
        "recall reached (0.99)": recall >= RECALL,
        "gaps of the cosines, enlarged": gaps(scores),
        "real passages among the exact five": float((indices[:, :AT] < real).float().mean()),
    }


def gaps(scores: Tensor) -> str:
    """Median gaps between given places of sorted scores (B, K)."""
    there = [(one, two) for one, two in GAPS if two <= scores.shape[1]]
    return ", ".join(
        f"{one}–{two}: {float((scores[:, one - 1] - scores[:, two - 1]).median()):.5f}" for one, two in there
    )


def plot_curve(curve: Sequence[dict[str, float]], path: Path) -> None:
    """Writes a PNG: seconds a question of every search, and seconds of building, over passages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    passages = [row["passages"] for row in curve]
    panels = {
        ("search", "seconds a question"): (EXACT, BY_INDEX, ONE_BY_ONE),
        ("store and index", "seconds"): ("writing", "building the index", "opening"),
    }
    for axes, ((title, height), names) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name in names:
            axes.loglog(passages, [max(row[name], 1e-6) for row in curve], "o-", label=name)
        axes.set(xlabel="passages", ylabel=height, title=title)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
