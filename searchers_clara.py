"""What FAISS holds of an index: sketches as they are, or short codes in RAM over sketches on disk.

FAISS proposes by inner product. A cell holds the documents that are *nearest* to its centre, so that little
is left for the codes, which hold the way from there; a question looks at the cells whose centres have the
greatest *inner product* with it, since questions lie far from all documents.

Letters of the shapes: N documents, d dimensions of a sketch.
"""

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

TRAINING_ROWS = 1 << 17
ROWS_PER_CELL = 39
CELL_ITERATIONS = 10
FEWEST_ROWS = 16  # a code of 4 bits is learnt from
QUERY_BITS = 8
ADD_ROWS = 1 << 14


@dataclass(frozen=True)
class Kind:
    """A kind of index.

    Attributes:
        factory: FAISS' name of what is searched.
        coded: Numbers of a sketch, the first ones, that are coded, turned at random so that they spread
            alike; the sketches, 8 bits a number, lie on disk then and order the best codes anew. None: the
            sketches themselves are searched.
        cells: Whether it has cells.
    """

    factory: str
    coded: int | None = None
    cells: bool = True


KINDS = {
    "flat": Kind("Flat", cells=False),
    "ivf_sq8": Kind("IVF{cells},SQ8"),
    "ivf_rabitq": Kind("IVF{cells},RaBitQfs", coded=256),
    "ivf_pq": Kind("IVF{cells},PQ{coded}x4fsr", coded=96),
}


def load_faiss() -> ModuleType:
    """FAISS, which is an optional dependency.

    Raises:
        ModuleNotFoundError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "An index needs FAISS: install `clara-rag[store]` or `faiss-cpu`, or search with `exact=True`."
        ) from error


def make_searcher(kind: str, sketches: np.ndarray, seed: int = 0) -> Any:
    """Trains FAISS on a sample of the sketches (N, d), at most 131,072, and adds all, block by block."""
    faiss = load_faiss()
    count, dimensions = sketches.shape
    most = min(count, TRAINING_ROWS)
    places = np.random.default_rng(seed).choice(count, most, replace=False) if most < count else slice(None)
    sample = np.ascontiguousarray(sketches[np.sort(places) if most < count else places])
    coded = KINDS[kind].coded
    if coded is None:
        return _filled(faiss, kind, sketches, sample, seed)
    turn = _turn(faiss, dimensions, min(coded, dimensions), seed)
    codes = _filled(faiss, kind, sketches, sample, seed, turn)
    ordering = faiss.IndexScalarQuantizer(
        dimensions, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    ordering.train(sample)
    for block in blocks(count, ADD_ROWS):
        ordering.add(np.ascontiguousarray(sketches[block]))
    return faiss.IndexRefine(faiss.IndexPreTransform(turn, codes), ordering)


def _filled(
    faiss: ModuleType, kind: str, sketches: np.ndarray, sample: np.ndarray, seed: int, turn: Any = None
) -> Any:
    """The index that is searched, with all sketches, turned, in it."""

    def turned(rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows)
        return rows if turn is None else turn.apply(rows)

    count, sample = len(sketches), turned(sample)
    width = sample.shape[1]
    name = KINDS[kind].factory.format(cells=cells_for(count), coded=width)
    searcher = faiss.index_factory(width, name, faiss.METRIC_INNER_PRODUCT)
    probing = searcher.quantizer if KINDS[kind].cells else None
    if probing is not None:
        centres = faiss.Kmeans(
            width, cells_for(count), niter=CELL_ITERATIONS, seed=seed, min_points_per_centroid=1
        )
        centres.train(sample)
        probing.add(centres.centroids)
        filling = faiss.IndexFlatL2(width)
        filling.add(centres.centroids)
        searcher.own_fields, searcher.quantizer = False, filling
    searcher.train(np.resize(sample, (max(len(sample), FEWEST_ROWS), width)))
    for block in blocks(count, ADD_ROWS):
        searcher.add(turned(sketches[block]))
    if probing is not None:
        searcher.quantizer, searcher.own_fields = probing, True
    return searcher


def _turn(faiss: ModuleType, dimensions: int, coded: int, seed: int) -> Any:
    """Takes the first numbers of a sketch and turns them at random."""
    noise = np.random.default_rng(seed).standard_normal((coded, coded))
    matrix = np.zeros((coded, dimensions), np.float32)
    matrix[:, :coded] = np.linalg.qr(noise)[0]
    turn = faiss.LinearTransform(dimensions, coded, False)
    faiss.copy_array_to_vector(matrix.ravel(), turn.A)
    turn.is_trained = True
    return turn


def search_parameters(kind: str, allowed: np.ndarray | None, cells: int, reordered_for_each: float) -> Any:
    """FAISS' parameters of a search.

    Args:
        kind: One of `KINDS`.
        allowed: (N,) bool, True for rows that may be found. None: all.
        cells: Cells looked at, of kinds that have them; at most all, which FAISS does not check everywhere.
        reordered_for_each: Codes whose sketches are compared for each one returned, of kinds that have codes.
    """
    faiss = load_faiss()
    options: dict[str, Any] = {}
    if allowed is not None:
        options["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    if KINDS[kind].cells:
        options["nprobe"] = cells
    if "RaBitQ" in KINDS[kind].factory:
        parameters = faiss.IVFRaBitQSearchParameters(qb=QUERY_BITS, **options)
    elif KINDS[kind].cells:
        parameters = faiss.SearchParametersIVF(**options)
    else:
        parameters = faiss.SearchParameters(**options)
    if KINDS[kind].coded is None:
        return parameters
    return faiss.IndexRefineSearchParameters(
        k_factor=reordered_for_each,
        base_index_params=faiss.SearchParametersPreTransform(index_params=parameters),
    )


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
