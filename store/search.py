"""Search in one version of a store: exact, by an index, by words; rows by their places.

Letters of the shapes: B questions, N passages, K chosen, n rows of a block, D width of a search vector.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lance
import numpy as np
import torch
from lance.query import MatchQuery
from torch import Tensor

from ..retrieval_clara import BLOCK_ROWS, nearest
from .places import Places
from .ranking import Scored
from .vectors import Vectors

SCAN_ROWS = 8192
IO_BYTES = 1 << 26
WORDS_INDEX, VECTOR_INDEX = "text_words", "vector_ann"


class Effort(NamedTuple):
    """How hard an index is searched.

    Attributes:
        nprobes: Cells that are looked at.
        refine: How many times K candidates are compared by their vectors.
    """

    nprobes: int
    refine: int


def exact(
    dataset: Any, places: Places, vectors: Vectors, query: Tensor, k: int, sql: str | None = None
) -> tuple[Tensor, Tensor]:
    """Scores and indices (B, K) of the nearest vectors, all of which are read."""
    blocks = _filtered(dataset, places, vectors, sql) if sql is not None else _all(dataset, vectors)
    buffer = torch.empty(BLOCK_ROWS, query.shape[1])
    scores, indices = nearest(query, _buffered(blocks, buffer), k)
    return scores.clamp(-1, 1), indices  # vectors of half precision are not quite of length 1


Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


def _buffered(blocks: Blocks, buffer: Tensor) -> Iterator[tuple[Tensor, Tensor, None]]:
    """Blocks in single precision, one after the other in the same memory."""
    for rows, values in blocks:
        part = buffer[: len(values)]
        np.copyto(part.numpy(), values)
        yield torch.from_numpy(rows), part, None


def _all(dataset: Any, vectors: Vectors) -> Blocks:
    start = 0
    for values in vectors.blocks(BLOCK_ROWS) if vectors.whole else _scanned(dataset):
        yield np.arange(start, start + len(values)), values
        start += len(values)


def _scanned(dataset: Any) -> Iterator[np.ndarray]:
    """All vectors as Lance reads them, in the order of the indices."""
    scanner = dataset.scanner(
        columns=["vector"], batch_size=SCAN_ROWS, batch_readahead=2, io_buffer_size=IO_BYTES
    )
    for batch in scanner.to_reader():
        values = batch.column(0).flatten().to_numpy().reshape(len(batch), -1)
        yield from (values[first : first + BLOCK_ROWS] for first in range(0, len(values), BLOCK_ROWS))


def _filtered(dataset: Any, places: Places, vectors: Vectors, sql: str) -> Blocks:
    scanner = dataset.scanner(columns=[], filter=sql, with_row_address=True, batch_size=SCAN_ROWS)
    for batch in scanner.to_reader():
        addresses = batch.column("_rowaddr").to_numpy().astype(np.int64)
        for first in range(0, len(addresses), BLOCK_ROWS):
            part = addresses[first : first + BLOCK_ROWS]
            yield places.indices(part), vectors.at(part)


def approximate(
    dataset: Any,
    places: Places,
    vectors: Vectors,
    query: Tensor,
    k: int,
    effort: Effort,
    sql: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores and indices (B, K): the index proposes, cosines decide; fewer columns if one finds fewer."""
    # behind a filter Lance may look at more cells, until it has found enough
    most = {} if sql is not None else {"maximum_nprobes": effort.nprobes}
    found = dataset.scanner(
        columns=["_distance"],
        filter=sql,
        prefilter=True,
        with_row_address=True,
        nearest={
            "column": "vector",
            "q": query.numpy().astype(np.float16),
            "k": k * effort.refine,
            "metric": "dot",
            "minimum_nprobes": effort.nprobes,
            **most,
        },
    ).to_table()
    counts = np.bincount(found["query_index"].to_numpy(), minlength=len(query))
    addresses = np.split(found["_rowaddr"].to_numpy().astype(np.int64), np.cumsum(counts)[:-1])
    columns = min(k, int(counts.min()))
    scores, indices = torch.empty(len(query), columns), torch.empty(len(query), columns, dtype=torch.long)
    for row, candidates in enumerate(addresses):
        values = torch.from_numpy(vectors.at(candidates)).float()
        block = (torch.from_numpy(places.indices(candidates)), values, None)
        best = nearest(query[row : row + 1], [block], columns) if columns else (scores[row], indices[row])
        scores[row], indices[row] = best
    return scores.clamp(-1, 1), indices


def by_words(
    dataset: Any, places: Places, questions: Sequence[str], depth: int, sql: str | None = None
) -> list[Scored]:
    """At most `depth` passages a question that share words with it: indices and BM25 scores, best first."""
    found = []
    for question in questions:
        forms = dict.fromkeys(unicodedata.normalize(form, question) for form in ("NFC", "NFD"))
        rows = dataset.scanner(
            columns=["_score"],
            filter=sql,
            prefilter=True,
            with_row_address=True,
            full_text_query=MatchQuery(" ".join(forms), "text"),
            limit=depth,
        ).to_table()
        indices, scores = places.indices(rows["_rowaddr"].to_numpy()), rows["_score"].to_numpy()
        order = np.lexsort((indices, -scores))
        found.append((indices[order].tolist(), scores[order].tolist()))
    return found


def index_names(dataset: Any) -> set[str]:
    """Names of the indexes of a version."""
    return {index.name for index in dataset.describe_indices()}


def index_words(dataset: Any) -> None:
    """Builds the full-text index: whole words, folded to lower case and plain letters, none left out."""
    dataset.create_scalar_index(
        "text",
        "INVERTED",
        name=WORDS_INDEX,
        base_tokenizer="simple",
        stem=False,
        remove_stop_words=False,
        lower_case=True,
        ascii_folding=True,
        with_position=False,
        max_token_length=None,
    )


def open_table(uri: str, version: int | str | None, options: dict[str, str] | None) -> Any:
    """Opens a Lance table; None if there is none.

    Raises:
        ValueError: If there is no such version or tag.
    """
    try:
        return lance.dataset(uri, version=version, storage_options=options)
    except ValueError as error:
        if version is None and "not found" in str(error).lower():
            return None
        raise ValueError(f"{uri} cannot be opened at version {version!r}: {error}") from error
