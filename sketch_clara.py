"""The sketch of a memory: a centred PCA of the flattened unit memory, whose distances order as cosines do.

States of a language model share a large common direction, which tells no documents apart: it is taken away
first. With m the mean of the unit memories x of a sample and A its main directions, a document's sketch is
A (x - m) and, as one more number, the length of what A leaves out of x - m; a question's sketch is A (q - m)
and 0. The squared distance of the two is |A (q - m)|² + |x - m|² - 2 A(q - m)·A(x - m): a constant of the
question less twice the cosine, but for the product of what A leaves out of both.

Letters of the shapes: n rows, D = M * H flattened width, d dimensions of a sketch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .search_clara import unit_rows

DIMENSIONS = 256
SAMPLE_ROWS = 8192
SAMPLE_BYTES = 1 << 28
SPARE_DIRECTIONS = 16


class Sketch:
    """A learned projection.

    Args:
        mean: (D,) mean of the unit memories.
        axes: (d - 1, D) orthonormal directions.
        turn: (d, d) rotation of the sketches.
    """

    def __init__(self, mean: Tensor, axes: Tensor, turn: Tensor) -> None:
        self.mean, self.axes, self.turn = mean.float(), axes.float(), turn.float()
        self._shift = self.axes @ self.mean

    @property
    def dimensions(self) -> int:
        """Numbers d of a sketch."""
        return len(self.turn)

    def project(self, rows: Tensor, norms: Tensor) -> Tensor:
        """Memories of documents to sketches.

        Args:
            rows: (n, D) float32.
            norms: (n,) their norms; a zero row counts as the zero memory.

        Returns:
            (n, d) float32.
        """
        norms = norms.masked_fill(norms == 0, 1.0).unsqueeze(1)
        inside = rows @ self.axes.T / norms - self._shift
        length = rows.square().sum(dim=1, keepdim=True) / norms.square()
        whole = length - 2 * (rows @ self.mean.unsqueeze(1)) / norms + self.mean @ self.mean
        outside = (whole - inside.square().sum(dim=1, keepdim=True)).clamp_min(0).sqrt()
        return torch.cat([inside, outside], dim=1) @ self.turn

    def questions(self, query: Tensor) -> Tensor:
        """Memories of questions (n, M, H) to sketches (n, d), float32."""
        inside = unit_rows(query.cpu()).float() @ self.axes.T - self._shift
        return torch.nn.functional.pad(inside, (0, 1)) @ self.turn


@torch.no_grad()
def learn_sketch(
    count: int, width: int, gather: Callable[[Tensor], Tensor], dimensions: int = DIMENSIONS, seed: int = 0
) -> Sketch:
    """Learns a sketch from a sample of a corpus, of at most 8192 rows and 256 MiB.

    The sketches are turned at random, which changes no distance and spreads the variance evenly over the
    numbers, as quantisers with few bits need it.

    Args:
        count: Rows N of the corpus.
        width: D.
        gather: Reads the rows at indices (n,), (n, M, H).
        dimensions: d, at least 2; fewer if the sample or D has fewer.
        seed: Of the sample and the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    places = sample_rows(count, min(SAMPLE_ROWS, max(2, SAMPLE_BYTES // (4 * width))), generator)
    sample = torch.cat([unit_rows(gather(part)).float() for part in places.split(256)])
    mean = sample.mean(dim=0)
    sample -= mean
    kept = min(dimensions - 1, width, max(1, len(sample) - 1))
    turn = torch.linalg.qr(torch.randn(kept + 1, kept + 1, generator=generator)).Q
    return Sketch(mean, _main_directions(sample, kept, seed), turn)


def sample_rows(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Up to `most` of N indices, drawn without replacement, sorted."""
    if count <= most:
        return torch.arange(count)
    drawn = torch.randint(0, count, (2 * most,), generator=generator).unique()
    return drawn[torch.randperm(len(drawn), generator=generator)[:most]].sort().values


def _main_directions(sample: Tensor, kept: int, seed: int) -> Tensor:
    """The (kept, D) main directions of a centred sample (n, D)."""
    if min(sample.shape) <= 2 * (kept + SPARE_DIRECTIONS):
        return torch.linalg.svd(sample, full_matrices=False).Vh[:kept]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.svd_lowrank(sample, kept + SPARE_DIRECTIONS, niter=3)[2].T[:kept]
