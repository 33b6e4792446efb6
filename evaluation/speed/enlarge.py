"""Enlarging a real corpus of memories to any size, so that search meets real questions among real neighbours.

The first rows are the real memories; each further row is a copy of one of them, perturbed on the unit sphere:

- `noise`: y = x + d · e with e a random unit vector in all D directions and d the distance from x to its
  nearest real neighbour. No document gets a neighbour nearer than real ones are. A question's cosine with the
  copy is that with x divided by √(1 + d²), give or take d / √D, hence lower: the gaps between its real
  neighbours stay what they are, and the crowd of copies begins below them.
- `mixed`: y = m + √½ (x - m) + √½ (z - m) with z another real memory and m the mean. Mean and covariance
  stay those of the real memories, as if more were drawn from the same source: the gaps shrink with the size
  as they do in a larger real corpus. Harder.

Letters of the shapes: n rows, N real memories, M memory tokens, H hidden width, D = M * H.
"""

from pathlib import Path

import torch
from clara.memory_clara import CorpusMemory, CorpusMemoryWriter
from clara.search_clara import unit_rows
from torch import Tensor
from tqdm.auto import tqdm

PERTURBATIONS = ("noise", "mixed")
NOISES = 1024
BLOCK_ROWS = 2048


class Enlarger:
    """Makes perturbed copies of real memories.

    Args:
        real: (N, M, H), N of at least 2.
        perturbation: "noise" or "mixed"; see above.
        seed: Of the copies.

    Raises:
        ValueError: If there are fewer than two memories or `perturbation` is unknown.
    """

    def __init__(self, real: Tensor, perturbation: str = "noise", seed: int = 0) -> None:
        if len(real) < 2:
            raise ValueError(f"`real` must hold at least 2 memories to enlarge, got {len(real)}.")
        if perturbation not in PERTURBATIONS:
            raise ValueError(
                f"`perturbation` must be one of {', '.join(PERTURBATIONS)}, got {perturbation!r}."
            )
        self._shape, self._seed, self._perturbation = real.shape[1:], seed, perturbation
        self._norms = real.flatten(1).float().norm(dim=1, keepdim=True)
        self._units = torch.cat([unit_rows(part).float() for part in real.split(BLOCK_ROWS)])
        if perturbation == "noise":
            self.distances = nearest_distances(self._units)
            generator = torch.Generator().manual_seed(seed)
            pool = torch.randn(NOISES, self._units.shape[1], generator=generator)
            self._pool = torch.nn.functional.normalize(pool)
        else:
            self._mean = self._units.mean(dim=0)

    def copies(self, number: int, count: int) -> Tensor:
        """Block `number` of `count` copies, (count, M, H) float32; the same for the same arguments."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number + 1)
        one = torch.randint(len(self._units), (count,), generator=generator)
        units = self._units[one]
        if self._perturbation == "noise":
            first, second = torch.randint(NOISES, (2, count), generator=generator)
            sign = torch.randint(2, (count, 1), generator=generator) * 2.0 - 1
            length = self.distances[one].unsqueeze(1) * 0.5**0.5
            units = units + length * self._pool[first] + sign * length * self._pool[second]
        else:
            other = torch.randint(1, len(self._units), (count,), generator=generator)
            other = (one + other) % len(self._units)
            units = (units + self._units[other]) * 0.5**0.5 + (1 - 2 * 0.5**0.5) * self._mean
        lengths = self._norms[one] / units.norm(dim=1, keepdim=True)
        return (units * lengths).unflatten(1, self._shape)


def nearest_distances(units: Tensor) -> Tensor:
    """Distance (N,) of each unit row (N, D) to the nearest other one, block by block."""
    found = []
    for start in range(0, len(units), BLOCK_ROWS):
        cosines = units[start : start + BLOCK_ROWS] @ units.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -1
        found.append((2 - 2 * cosines.amax(dim=1)).clamp_min(0).sqrt())
    return torch.cat(found)


def write_enlarged(
    folder: Path,
    real: CorpusMemory,
    count: int,
    perturbation: str = "noise",
    dtype: str = "bfloat16",
    seed: int = 0,
    show_progress: bool = False,
) -> CorpusMemory:
    """Writes a store of `count` memories: the real ones, then copies; returns it opened.

    Args:
        folder: Where it goes; it must hold no store.
        real: The real memories; only the first `count` if there are more.
        count: Passages of the store.
        perturbation: As of `Enlarger`.
        dtype: Format of the stored memories.
        seed: Of the copies.
        show_progress: Show a progress bar.
    """
    kept = min(count, len(real))
    with (
        CorpusMemoryWriter(folder, real.fingerprint, real.base, dtype=dtype) as writer,
        tqdm(total=count, desc="enlarging", unit="passage", disable=not show_progress) as bar,
    ):
        writer.add(real[:kept], real.texts[:kept], real.document_ids[:kept])
        bar.update(kept)
        enlarger = Enlarger(real[:kept], perturbation, seed) if count > kept else None
        for number, start in enumerate(range(kept, count, BLOCK_ROWS)):
            rows = min(BLOCK_ROWS, count - start)
            names = [f"copy {row}" for row in range(start, start + rows)]
            writer.add(enlarger.copies(number, rows).to(real.dtype), names, names)
            bar.update(rows)
        return writer.finish()
