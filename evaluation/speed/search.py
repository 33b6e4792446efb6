"""Exact search: seconds a question over search vectors, and the bytes that they take."""

from collections.abc import Callable
from typing import Any

import torch
from clara.memory_clara import CorpusMemory

from .report import Section, line
from .sizes import Sizes
from .timing import WALL, measure, nothing

BATCH = 16


def bench_search(model: Any, sizes: Sizes, repeats: int) -> Section:
    """Times the search for five of N passages, one question and a batch of them, over random vectors in RAM.

    Args:
        model: A CLaRa model; the width of its search vectors is that of the random ones.
        sizes: How many passages.
        repeats: Rounds.
    """
    lines, facts = [], {}
    for count in sizes.searched:
        memory = random_memory(model, count)
        seconds = measure(search_runs(memory), repeats, model.device)
        vectors = memory.vectors
        size = vectors.numel() * vectors.element_size()
        for (name, marks), questions in zip(seconds.items(), (1, min(BATCH, count)), strict=True):
            lines.append(line(f"{count:,} passages, {name}", marks[WALL], {"questions": questions}))
        facts[f"bytes of {count:,} search vectors"] = size
    return Section("search", "Exact search for the five nearest passages", lines, [], facts)


def random_memory(model: Any, count: int) -> CorpusMemory:
    """N memories of one random vector, with search vectors of the model's width."""
    seed = torch.Generator().manual_seed(0)
    config = model.config
    width = config.get_text_config().hidden_size
    values = torch.randn(count, width, generator=seed)
    flat = config.num_memory_tokens if config.retrieval_pooling == "flatten" else 1
    vectors = values if flat == 1 else torch.randn(count, flat * width, generator=seed)
    texts = [str(index) for index in range(count)]
    return CorpusMemory(values, texts, vectors=vectors, offsets=torch.arange(count + 1))


def search_runs(memory: CorpusMemory) -> dict[str, Callable[[int], None]]:
    """One question, and a batch, on the CPU, where `generate` puts its questions' vectors."""
    one, many = memory.vectors[:1], memory.vectors[: min(BATCH, len(memory))]
    return {
        "one question": lambda _: nothing(memory.search(one, 5)),
        f"{len(many)} questions": lambda _: nothing(memory.search(many, 5)),
    }
