"""Sketches of memories: few numbers, whose inner product orders documents for a question as cosines do.

States of a language model share a large common direction, which tells no documents apart: it is taken away
first. What is left of a document is kept where *questions* vary, not where documents do: a trained query
reasoner leaves questions in other directions than the main ones of documents. With q unit memories of
questions, z those of documents less their mean, and S = E[q qᵀ] + λ 1, the inner product is
z · q = (S^½ z) · (S^-½ q), and what d directions leave out of S^½ z errs least for a question of the kind
learnt from. So V are the main directions of S^½ z, and the sketches are s^-½ Vᵀ S^½ z of a document and
s^½ Vᵀ S^-½ q of a question: with s the singular values, both spread alike, and their first numbers tell most.

Letters of the shapes: n rows, T questions, D = M * H flattened width, d dimensions of a sketch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .search_clara import unit_rows

DIMENSIONS = 256
SAMPLE_ROWS = 8192
SAMPLE_BYTES = 1 << 28
MOST_QUESTIONS = 2048
SPARE_DIRECTIONS = 16
RIDGE = 0.01


class DocumentSketch:
    """Memories of documents to sketches; needed while an index is built.

    Args:
        mean: (D,) mean of the unit memories.
        axes: (d, D).
    """

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        self.axes = axes.float()
        self._shift = self.axes @ mean.float()

    @property
    def dimensions(self) -> int:
        """Numbers d of a sketch."""
        return len(self.axes)

    def project(self, rows: Tensor, norms: Tensor) -> Tensor:
        """Sketches (n, d) of rows (n, D) with these norms (n,), float32; a zero row is the zero memory."""
        return rows @ self.axes.T / norms.masked_fill(norms == 0, 1.0).unsqueeze(1) - self._shift


class QuestionSketch:
    """Memories of questions to sketches; kept with the index, in half precision.

    Args:
        axes: (d, D).
    """

    def __init__(self, axes: Tensor) -> None:
        self.axes = axes.half()

    @property
    def dimensions(self) -> int:
        """Numbers d of a sketch."""
        return len(self.axes)

    def project(self, query: Tensor) -> Tensor:
        """Sketches (n, d) of memories (n, M, H), float32."""
        return unit_rows(query.cpu()).float() @ self.axes.float().T


@torch.no_grad()
def learn_sketches(
    count: int,
    width: int,
    gather: Callable[[Tensor], Tensor],
    dimensions: int = DIMENSIONS,
    questions: Tensor | None = None,
    seed: int = 0,
) -> tuple[DocumentSketch, QuestionSketch]:
    """Learns both sketches from questions and a sample of a corpus, of at most 8192 rows and 256 MiB.

    Args:
        count: Rows N of the corpus.
        width: D.
        gather: Reads the rows at indices (n,), (n, M, H).
        dimensions: d; fewer if the sample or D has fewer.
        questions: (T, M, H) memories of questions, of which 2048 are used. None: the sample's documents
            stand for them.
        seed: Of the samples and the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    most = max(2, SAMPLE_BYTES // (4 * width))
    places = sample_rows(count, min(SAMPLE_ROWS, most), generator)
    sample = torch.cat([unit_rows(gather(part)).float() for part in places.split(256)])
    asked = sample if questions is None else unit_rows(questions.cpu()).float()
    asked = asked[sample_rows(len(asked), min(MOST_QUESTIONS, most), generator)]
    mean = sample.mean(dim=0)
    kept = min(dimensions, width, max(1, len(sample) - 1))
    documents, asking = _balanced_axes(sample - mean, asked, kept, seed)
    scale = asking.abs().max()  # the range of half precision
    return DocumentSketch(mean, documents * scale), QuestionSketch(asking / scale)


def sample_rows(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Up to `most` of N indices, drawn without replacement, sorted."""
    if count <= most:
        return torch.arange(count)
    drawn = torch.randint(0, count, (2 * most,), generator=generator).unique()
    return drawn[torch.randperm(len(drawn), generator=generator)[:most]].sort().values


def _balanced_axes(spread: Tensor, asked: Tensor, kept: int, seed: int) -> tuple[Tensor, Tensor]:
    """Axes (d, D) for documents and for questions, of centred documents (n, D) and questions (T, D)."""
    roots, directions, rest = _metric(asked)
    half = _scaled(spread, roots, directions, rest) / len(spread) ** 0.5
    lengths, main = _main_directions(half, kept, seed)
    lengths = lengths.clamp_min(1e-6 * float(lengths.max()) or 1.0).sqrt().unsqueeze(1)
    documents = _scaled(main, roots, directions, rest) / lengths
    return documents, _scaled(main, 1 / roots, directions, 1 / rest) * lengths


def _metric(asked: Tensor) -> tuple[Tensor, Tensor, float]:
    """S^½ of questions (T, D): its roots (r,) in directions (r, D), and its root in all others.

    λ is a hundredth of the mean eigenvalue, the first one left out, which is the common direction.
    """
    products = (asked @ asked.T).double() / len(asked)
    values, vectors = torch.linalg.eigh(products)
    first = float(values[-1]) or 1.0
    there = values > 1e-6 * first
    values, vectors = values[there], vectors[:, there]
    directions = vectors.T.float() @ asked / (len(asked) * values).sqrt().float().unsqueeze(1)
    ridge = RIDGE * max(float(values[:-1].sum()) / max(1, len(asked) - 1), 1e-4 * first)
    return (values + ridge).sqrt().float(), directions, ridge**0.5


def _scaled(rows: Tensor, roots: Tensor, directions: Tensor, rest: float) -> Tensor:
    """Rows (n, D) times the symmetric map that has these roots in these directions, and `rest` elsewhere."""
    return rest * rows + (rows @ directions.T * (roots - rest)) @ directions


def _main_directions(rows: Tensor, kept: int, seed: int) -> tuple[Tensor, Tensor]:
    """The largest singular values (kept,) of rows (n, D) and their directions (kept, D)."""
    if min(rows.shape) <= 2 * (kept + SPARE_DIRECTIONS):
        _, lengths, directions = torch.linalg.svd(rows, full_matrices=False)
        return lengths[:kept], directions[:kept]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, lengths, directions = torch.svd_lowrank(rows, kept + SPARE_DIRECTIONS, niter=3)
    return lengths[:kept], directions.T[:kept]
