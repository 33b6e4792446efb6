"""Exact search: seconds a question over stored memories, and the bytes that they take."""

from collections.abc import Callable
from typing import Any

import torch
from clara.memory_clara import CorpusMemory
from torch import Tensor

from .report import Section, line
from .roofline import Roof, Work
from .sizes import Sizes
from .timing import WALL, measure, nothing

BATCH = 16


def bench_search(model: Any, sizes: Sizes, repeats: int, roof: Roof) -> Section:
    """Times the search for five of N passages, one question and a batch of them, over random memories in RAM.

    Args:
        model: A CLaRa model; its width and memory tokens decide the shape, its dtype that of the memories.
        sizes: How many passages.
        repeats: Rounds.
        roof: The machine's peak.
    """
    lines, facts = [], {}
    for count in sizes.searched:
        memory = random_memory(model, count)
        seconds = measure(search_runs(memory, model.device), repeats, model.device)
        size = memory[:].numel() * memory[:].element_size()
        for (name, marks), questions in zip(seconds.items(), (1, min(BATCH, count)), strict=True):
            work = [Work(2.0 * questions * memory[:].numel(), float(size))]
            lines.append(
                line(f"{count:,} passages, {name}", marks[WALL], {"questions": questions}, work, roof)
            )
        facts[f"bytes of {count:,} memories"] = size
    return Section("search", "Exact search for the five nearest memories", lines, [], facts)


def random_memory(model: Any, count: int) -> CorpusMemory:
    """N memories of random numbers in the model's shape and dtype."""
    values = torch.randn(count, *model.memory_shape(), generator=torch.Generator().manual_seed(0)).to(
        model.dtype
    )
    return CorpusMemory(values, [str(index) for index in range(count)])


def search_runs(memory: CorpusMemory, device: torch.device) -> dict[str, Callable[[int], None]]:
    """One question, and a batch; the queries lie where the model would put them."""

    def query(count: int) -> Tensor:
        return memory[:count].float().to(device)

    one, many = query(1), query(min(BATCH, len(memory)))
    return {
        "one question": lambda _: nothing(memory.search(one, 5)),
        f"{len(many)} questions": lambda _: nothing(memory.search(many, 5)),
    }
