"""The index of a corpus memory: sketches in FAISS, which propose the candidates that are then scored exactly.

| kind | what is searched | bytes of RAM a document (d = 256) | on disk | for |
|---|---|---|---|---|
| `flat` | the sketches | 1024 | | up to 50,000 |
| `ivf_sq8` | 8 bits a number, in cells | 265 | | up to 200,000 |
| `ivf_rabitq` | 1 bit a number, in cells; the best reordered by their sketches | 52 | 256 | |
| `ivf_pq` | 4 bits of each of 96 numbers, in cells; reordered alike | 58 | 256 | more |

Letters of the shapes: B questions, N documents, d dimensions of a sketch, C candidates.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .searchers_clara import KINDS, load_faiss, search_parameters
from .sketch_clara import QuestionSketch

INDEXED_FROM = 100_000
FLAT_UP_TO, SQ8_UP_TO = 50_000, 200_000


def choose_kind(count: int, kind: str | None = None) -> str:
    """The kind of index for N documents, or the one asked for.

    Raises:
        ValueError: If `kind` is unknown.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)} or None, got {kind!r}.")
    if kind is not None:
        return kind
    return "flat" if count <= FLAT_UP_TO else "ivf_sq8" if count <= SQ8_UP_TO else "ivf_pq"


@dataclass(frozen=True)
class Effort:
    """How hard a search tries.

    Attributes:
        candidates: Documents scored exactly for each one that is returned.
        cells: Cells of the index that are looked at; 0 for kinds without cells.
        reordered: Best codes that are ordered anew by their sketches; 0 for kinds without codes.
    """

    candidates: float
    cells: int
    reordered: int = 0


class SketchIndex:
    """Sketches of rows 0 to N - 1 in FAISS.

    Args:
        kind: One of `KINDS`.
        sketch: Projects questions.
        searcher: FAISS' index.
        effort: How hard a search tries, unless a call says otherwise.
        recall: Measured when the index was built: `{"at", "mean", "questions", "of"}`.
    """

    def __init__(
        self,
        kind: str,
        sketch: QuestionSketch,
        searcher: Any,
        effort: Effort,
        recall: dict[str, Any] | None = None,
    ) -> None:
        self.kind, self.sketch, self.effort, self.recall = kind, sketch, effort, recall
        self.searcher = searcher

    def __len__(self) -> int:
        return self.searcher.ntotal

    @cached_property
    def _codes(self) -> Any:
        """What FAISS searches: all of it, or the part that comes before the sketches on disk."""
        return load_faiss().extract_index_ivf(self.searcher) if KINDS[self.kind].cells else self.searcher

    @property
    def num_cells(self) -> int:
        """Cells of the index; 0 for kinds without cells."""
        return self._codes.nlist if KINDS[self.kind].cells else 0

    @property
    def code_bytes(self) -> int:
        """Bytes of a document in RAM, but for its place in a cell."""
        return self._codes.code_size

    @property
    def sketch_bytes(self) -> int:
        """Bytes of a sketch on disk; 0 for kinds that search the sketches themselves."""
        return 0 if KINDS[self.kind].coded is None else self.searcher.refine_index.sa_code_size()

    def count_for(self, k: int) -> int:
        """Candidates C of a question that wants K documents."""
        return min(len(self), max(k, math.ceil(self.effort.candidates * k)))

    def propose(
        self,
        query: Tensor,
        count: int,
        allowed: np.ndarray | None = None,
        cells: int | None = None,
        reordered: int | None = None,
    ) -> Tensor:
        """The best candidates by sketch.

        Args:
            query: (B, M, H) memories of the questions.
            count: Candidates C of each.
            allowed: (N,) bool, True for rows that may be proposed. None: all.
            cells: Cells looked at. None: as `effort` says.
            reordered: Codes ordered anew. None: as `effort` says.

        Returns:
            (B, C) int64 rows, best first, -1 where there are fewer.
        """
        sketches = self.sketch.project(query).numpy()
        cells = min(self.num_cells, cells or self.effort.cells)
        for_each = max(1.0, (reordered or self.effort.reordered) / count)
        allowed = None if allowed is None else allowed[: len(self)]
        parameters = search_parameters(self.kind, allowed, cells, for_each)
        _, rows = self.searcher.search(sketches, count, params=parameters)
        return torch.from_numpy(rows)
