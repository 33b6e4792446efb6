"""One corpus memory at a larger compression rate: the mean of neighbouring vectors (nested rates)."""

import torch
from clara.configuration_clara import ClaraConfig
from clara.memory_clara import CorpusMemory
from clara.retrieval_clara import Memories, average_neighbours


def rate_factor(config: ClaraConfig, rate: int) -> int:
    """How many neighbouring vectors become one at a rate.

    Args:
        config: Of the model whose memories are read.
        rate: Tokens a vector.

    Raises:
        ValueError: If the rate is no multiple of the model's.
    """
    if rate < 1 or rate % config.compression_rate:
        raise ValueError(
            f"`rate` must be a multiple of the model's compression rate {config.compression_rate}, got "
            f"{rate}: give such a rate, or another checkpoint."
        )
    return rate // config.compression_rate


def coarser(memory: CorpusMemory, factor: int) -> CorpusMemory:
    """The memory with every `factor` neighbouring vectors averaged; search vectors stay.

    Args:
        memory: Of N passages.
        factor: How many vectors become one; the last is the mean of those that are left.
    """
    if factor == 1:
        return memory
    rows = [
        average_neighbours(Memories(row, torch.tensor(len(row))), factor).values
        for row in memory.gather(range(len(memory)))
    ]
    columns = ("texts", "document_ids", "metadata", "parents", "orders")
    facts = ("vectors", "fingerprint", "base", "dtype")
    given = {name: getattr(memory, name) for name in (*columns, *facts)}
    return CorpusMemory(rows, **given)
