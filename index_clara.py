"""The index of a corpus memory: sketches in FAISS, which propose the candidates that are then scored exactly.

| kind | FAISS | bytes a document (d = 256) | for |
|---|---|---|---|
| `flat` | exact distances of sketches | 1024 | up to 50,000 |
| `sq8` | 8 bits a number | 256 | |
| `ivf_sq8` | the same in cells | 265 | up to 200,000 |
| `rabitq` | 1 bit a number | 40 | |
| `ivf_rabitq` | the same in cells | 50 | more |

Letters of the shapes: B questions, N documents, d dimensions of a sketch, C candidates.
"""

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .sketch_clara import Sketch

FACTORY = {
    "flat": "Flat",
    "sq8": "SQ8",
    "ivf_sq8": "IVF{cells},SQ8",
    "rabitq": "RaBitQ",
    "ivf_rabitq": "IVF{cells},RaBitQ",
}
KINDS = tuple(FACTORY)
INDEXED_FROM = 100_000
FLAT_UP_TO, SQ8_UP_TO = 50_000, 200_000
TRAINING_ROWS = 1 << 17
ROWS_PER_CELL = 39
QUERY_BITS = 8
ADD_ROWS = 1 << 14


def load_faiss() -> ModuleType:
    """FAISS, which is an optional dependency.

    Raises:
        ModuleNotFoundError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "An index needs FAISS: install `clara[store]` or `faiss-cpu`, or search with `exact=True`."
        ) from error


def choose_kind(count: int, kind: str | None = None) -> str:
    """The kind of index for N documents, or the one asked for.

    Raises:
        ValueError: If `kind` is unknown.
    """
    if kind is not None and kind not in FACTORY:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)} or None, got {kind!r}.")
    if kind is not None:
        return kind
    return "flat" if count <= FLAT_UP_TO else "ivf_sq8" if count <= SQ8_UP_TO else "ivf_rabitq"


@dataclass(frozen=True)
class Effort:
    """How hard a search tries.

    Attributes:
        candidates: Documents scored exactly for each one that is returned.
        cells: Cells of the index that are looked at; 0 for kinds without cells.
    """

    candidates: float
    cells: int


class SketchIndex:
    """Sketches of rows 0 to N - 1 in FAISS.

    Args:
        kind: One of `KINDS`.
        sketch: Projects memories.
        searcher: FAISS' index.
        effort: How hard a search tries, unless a call says otherwise.
        recall: Measured when the index was built: `{"at", "mean", "questions", "of"}`.
    """

    def __init__(
        self, kind: str, sketch: Sketch, searcher: Any, effort: Effort, recall: dict[str, Any] | None = None
    ) -> None:
        self.kind, self.sketch, self.effort, self.recall = kind, sketch, effort, recall
        self.searcher = searcher

    def __len__(self) -> int:
        return self.searcher.ntotal

    @property
    def num_cells(self) -> int:
        """Cells of the index; 0 for kinds without cells."""
        return self.searcher.nlist if self.kind.startswith("ivf") else 0

    @property
    def code_bytes(self) -> int:
        """Bytes of a sketch in the index."""
        return self.searcher.sa_code_size()

    def count_for(self, k: int) -> int:
        """Candidates C of a question that wants K documents."""
        return min(len(self), max(k, math.ceil(self.effort.candidates * k)))

    def propose(
        self, query: Tensor, count: int, allowed: np.ndarray | None = None, cells: int | None = None
    ) -> Tensor:
        """The best candidates by sketch.

        Args:
            query: (B, M, H) memories of the questions.
            count: Candidates C of each.
            allowed: (N,) bool, True for rows that may be proposed. None: all.
            cells: Cells looked at. None: as `effort` says.

        Returns:
            (B, C) int64 rows, best first, -1 where there are fewer.
        """
        sketches = self.sketch.questions(query).numpy()
        parameters = self._parameters(load_faiss(), allowed, cells)
        _, rows = self.searcher.search(sketches, count, params=parameters)
        return torch.from_numpy(rows)

    def _parameters(self, faiss: ModuleType, allowed: np.ndarray | None, cells: int | None) -> Any:
        options: dict[str, Any] = {}
        if allowed is not None:
            bits = np.packbits(allowed[: len(self)], bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(bits)
        if self.num_cells:
            options["nprobe"] = min(self.num_cells, cells or self.effort.cells)
        prefix, name = ("IVF" if self.num_cells else ""), self.kind.rpartition("_")[2]
        if name == "rabitq":
            return getattr(faiss, f"{prefix}RaBitQSearchParameters")(qb=QUERY_BITS, **options)
        return faiss.SearchParametersIVF(**options) if prefix else faiss.SearchParameters(**options)


def make_searcher(kind: str, sketches: np.ndarray, seed: int = 0) -> Any:
    """Trains FAISS on a sample of the sketches (N, d), at most 131,072, and adds all, block by block."""
    faiss = load_faiss()
    count, dimensions = sketches.shape
    cells = cells_for(count)
    name = FACTORY[kind].format(cells=cells)
    searcher = faiss.index_factory(dimensions, name, faiss.METRIC_L2)
    if kind.startswith("ivf"):
        searcher.cp.seed = seed
        searcher.cp.min_points_per_centroid = 1
    most = min(count, TRAINING_ROWS)
    places = np.random.default_rng(seed).choice(count, most, replace=False) if most < count else slice(None)
    searcher.train(np.ascontiguousarray(sketches[np.sort(places) if most < count else places]))
    for block in blocks(count, ADD_ROWS):
        searcher.add(np.ascontiguousarray(sketches[block]))
    return searcher


def cells_for(count: int) -> int:
    """Cells for N documents: 2 √N, a power of two, with at least 39 documents of the training sample each."""
    wanted = 2 ** round(math.log2(2 * math.sqrt(count)))
    most = max(1, min(count, TRAINING_ROWS) // ROWS_PER_CELL)
    return max(1, min(wanted, most))


def blocks(count: int, size: int) -> Iterator[slice]:
    """Slices that cover `count` rows in order."""
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def read_searcher(path: Path) -> Any:
    """Opens an index file by memory map: its codes come into RAM as they are touched.

    Raises:
        ValueError: If FAISS cannot read it.
    """
    faiss = load_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a readable index ({error}): build the index again.") from error
