"""Enlarging the search vectors of a real corpus to any size: real questions meet a crowd of neighbours.

The first rows are the real ones; each further row is made of two of them, x and z, on the unit sphere:
y = m + √½ (x - m) + √½ (z - m) with the mean m. Mean and covariance stay those of the real vectors, as if
more were drawn from the same source: the gaps between a question's neighbours shrink with the size as they do
in a larger real corpus.

Letters of the shapes: n rows, N real passages, D width of a search vector.
"""

from collections.abc import Iterator

import torch
from clara.memory_clara import CorpusMemory
from torch import Tensor
from torch.nn.functional import normalize

BLOCK_ROWS = 2048


def mixed(real: Tensor, number: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Block `number` of `count` mixtures: vectors (count, D), and the first real row (count,) of each.

    Args:
        real: (N, D), N of at least 2.
        number: Of the block.
        count: Rows of it.
        seed: Of the mixtures.

    Raises:
        ValueError: If there are fewer than two real vectors.
    """
    if len(real) < 2:
        raise ValueError(f"`real` must hold at least 2 vectors to enlarge, got {len(real)}.")
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number + 1)
    units = normalize(real.float(), dim=1)
    one = torch.randint(len(units), (count,), generator=generator)
    other = (one + torch.randint(1, len(units), (count,), generator=generator)) % len(units)
    vectors = (units[one] + units[other]) * 0.5**0.5 + (1 - 2 * 0.5**0.5) * units.mean(dim=0)
    return normalize(vectors, dim=1), one


def enlarged(real: CorpusMemory, count: int, seed: int = 0) -> Iterator[CorpusMemory]:
    """Memories of `count` passages in all, block by block: the real ones, then mixtures.

    A mixture has the stored memory of a real passage and a search vector of its own.

    Args:
        real: The real memories; only the first `count` if there are more.
        count: As above.
        seed: Of the mixtures.
    """
    kept = min(count, len(real))
    yield part_of(real, torch.arange(kept), real.vectors[:kept], real.document_ids[:kept])
    for number, start in enumerate(range(kept, count, BLOCK_ROWS)):
        vectors, rows = mixed(real.vectors[:kept], number, min(BLOCK_ROWS, count - start), seed)
        yield part_of(real, rows, vectors, [f"copy {row}" for row in range(start, start + len(rows))])


def part_of(real: CorpusMemory, rows: Tensor, vectors: Tensor, names: list[str]) -> CorpusMemory:
    """The memories of some rows (n,) under other names, with other search vectors (n, D)."""
    memories = real.gather(rows)
    counts = torch.tensor([0, *(len(memory) for memory in memories)])
    return CorpusMemory(
        torch.cat(memories),
        [real.texts[row] for row in rows.tolist()],
        names,
        [{"number": row} for row in rows.tolist()],
        vectors=vectors,
        fingerprint=real.fingerprint,
        base=real.base,
        dtype=real.dtype,
        offsets=counts.cumsum(0),
    )
