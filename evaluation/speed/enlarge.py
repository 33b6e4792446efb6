"""Enlarging the search vectors of a real corpus to any size: real questions meet a crowd of neighbours.

The first rows are the real ones; each further row is made of them, on the unit sphere:

- `mixed`: y = m + √½ (x - m) + √½ (z - m) with two real vectors x and z and the mean m. Mean and covariance
  stay those of the real vectors, as if more were drawn from the same source: the gaps between a question's
  neighbours shrink with the size as they do in a larger real corpus.
- `noise`: y = x + d · e with e a random unit vector in all D directions and d the distance from x to its
  nearest real neighbour. The copies fill all directions alike, which real passages do not: hard for an index.

Letters of the shapes: n rows, N real passages, D width of a search vector.
"""

from collections.abc import Iterator

import torch
from clara.memory_clara import CorpusMemory
from torch import Tensor

PERTURBATIONS = ("mixed", "noise")
BLOCK_ROWS = 2048


class Enlarger:
    """Makes perturbed copies of real search vectors.

    Args:
        real: (N, D), N of at least 2.
        perturbation: "mixed" or "noise"; see above.
        seed: Of the copies.

    Raises:
        ValueError: If there are fewer than two vectors or `perturbation` is unknown.
    """

    def __init__(self, real: Tensor, perturbation: str = "mixed", seed: int = 0) -> None:
        if len(real) < 2:
            raise ValueError(f"`real` must hold at least 2 vectors to enlarge, got {len(real)}.")
        if perturbation not in PERTURBATIONS:
            raise ValueError(
                f"`perturbation` must be one of {', '.join(PERTURBATIONS)}, got {perturbation!r}."
            )
        self._units = torch.nn.functional.normalize(real.float(), dim=1)
        self._seed, self._perturbation = seed, perturbation
        self._mean = self._units.mean(dim=0)
        self.distances = nearest_distances(self._units) if perturbation == "noise" else None

    def copies(self, number: int, count: int) -> tuple[Tensor, Tensor]:
        """Block `number` of `count` copies: vectors (count, D), and the real row (count,) of each."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number + 1)
        one = torch.randint(len(self._units), (count,), generator=generator)
        if self._perturbation == "noise":
            noise = torch.randn(count, self._units.shape[1], generator=generator)
            steps = self.distances[one].unsqueeze(1) * torch.nn.functional.normalize(noise, dim=1)
            return torch.nn.functional.normalize(self._units[one] + steps, dim=1), one
        other = torch.randint(1, len(self._units), (count,), generator=generator)
        other = (one + other) % len(self._units)
        mixed = (self._units[one] + self._units[other]) * 0.5**0.5 + (1 - 2 * 0.5**0.5) * self._mean
        return torch.nn.functional.normalize(mixed, dim=1), one


def nearest_distances(units: Tensor) -> Tensor:
    """Distance (N,) of each unit row (N, D) to the nearest other one, block by block."""
    found = []
    for start in range(0, len(units), BLOCK_ROWS):
        cosines = units[start : start + BLOCK_ROWS] @ units.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -1
        found.append((2 - 2 * cosines.amax(dim=1)).clamp_min(0).sqrt())
    return torch.cat(found)


def enlarged(
    real: CorpusMemory, count: int, perturbation: str = "mixed", seed: int = 0
) -> Iterator[CorpusMemory]:
    """Memories of `count` passages in all, block by block: the real ones, then copies.

    A copy has the stored memory of a real passage and a search vector of its own.

    Args:
        real: The real memories; only the first `count` if there are more.
        count: As above.
        perturbation: As of `Enlarger`.
        seed: Of the copies.
    """
    kept = min(count, len(real))
    yield part_of(real, torch.arange(kept), real.vectors[:kept], real.document_ids[:kept])
    enlarger = Enlarger(real.vectors[:kept], perturbation, seed) if count > kept else None
    for number, start in enumerate(range(kept, count, BLOCK_ROWS)):
        vectors, rows = enlarger.copies(number, min(BLOCK_ROWS, count - start))
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
