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

from ..ranking_clara import BLOCK_ROWS, nearest

SCAN_ROWS = 8192
IO_BYTES = 1 << 26
ADDRESS_BITS = 32
WORDS_INDEX, VECTOR_INDEX = "text_words", "vector_ann"


class Effort(NamedTuple):
    """How hard an index is searched.

    Attributes:
        nprobes: Cells that are looked at.
        refine: How many times K candidates are compared by their vectors.
    """

    nprobes: int
    refine: int


class Places:
    """Where the rows of a version lie: from addresses of Lance (fragment and offset) to indices 0 to N - 1.

    Only fragments that lost rows need memory, 4 bytes for each row that is left.

    Args:
        dataset: The Lance dataset.
    """

    def __init__(self, dataset: Any) -> None:
        fragments = dataset.get_fragments()
        self._fragments = np.array([fragment.fragment_id for fragment in fragments], np.int64)
        counts = [fragment.count_rows() for fragment in fragments]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._left: dict[int, np.ndarray] = {}
        for number, fragment in enumerate(fragments):
            if fragment.num_deletions:
                found = dataset.scanner(columns=[], with_row_address=True, fragments=[fragment]).to_table()
                offsets = found["_rowaddr"].to_numpy() & ((1 << ADDRESS_BITS) - 1)
                self._left[number] = offsets.astype(np.uint32)

    def indices(self, addresses: np.ndarray) -> np.ndarray:
        """Indices (n,) int64 of addresses (n,)."""
        addresses = addresses.astype(np.int64)
        numbers = np.searchsorted(self._fragments, addresses >> ADDRESS_BITS)
        offsets = addresses & ((1 << ADDRESS_BITS) - 1)
        for number, left in self._left.items():
            inside = numbers == number
            offsets[inside] = np.searchsorted(left, offsets[inside])
        return self._starts[numbers] + offsets


def exact(
    dataset: Any, places: Places, query: Tensor, k: int, sql: str | None = None
) -> tuple[Tensor, Tensor]:
    """Scores and indices (B, K) of the nearest vectors, all of which are read."""
    scores, indices = nearest(query, _blocks(dataset, places, query.shape[1], sql), k)
    return scores.clamp(-1, 1), indices  # vectors of half precision are not quite of length 1


def _blocks(
    dataset: Any, places: Places, width: int, sql: str | None
) -> Iterator[tuple[Tensor, Tensor, None]]:
    """The vectors of a version, block by block, in a buffer that is used again."""
    buffer, start = torch.empty(BLOCK_ROWS, width), 0
    scanner = dataset.scanner(
        columns=["vector"],
        filter=sql,
        with_row_address=sql is not None,
        batch_size=SCAN_ROWS,
        batch_readahead=2,
        io_buffer_size=IO_BYTES,
    )
    for batch in scanner.to_reader():
        values = batch.column("vector").flatten().to_numpy().reshape(-1, width)
        if sql is None:
            rows = torch.arange(start, start + len(values))
            start += len(values)
        else:
            rows = torch.from_numpy(places.indices(batch.column("_rowaddr").to_numpy()))
        for first in range(0, len(values), BLOCK_ROWS):
            part = values[first : first + BLOCK_ROWS]
            np.copyto(buffer[: len(part)].numpy(), part)
            yield rows[first : first + BLOCK_ROWS], buffer[: len(part)], None


def approximate(
    dataset: Any, places: Places, query: Tensor, k: int, effort: Effort, sql: str | None = None
) -> tuple[Tensor, Tensor]:
    """Scores and indices (B, K) that the index finds; fewer columns if a question finds fewer."""
    found = dataset.scanner(
        columns=["_distance"],
        filter=sql,
        prefilter=True,
        with_row_address=True,
        nearest={
            "column": "vector",
            "q": query.numpy().astype(np.float16),
            "k": k,
            "metric": "dot",
            "minimum_nprobes": effort.nprobes,
            "refine_factor": effort.refine,
        },
    ).to_table()
    numbers = found["query_index"].to_numpy()
    indices = places.indices(found["_rowaddr"].to_numpy())
    scores = 1 - found["_distance"].to_numpy()
    order = np.lexsort((indices, -scores, numbers))
    columns = int(np.bincount(numbers, minlength=len(query)).min())
    starts = np.searchsorted(numbers[order], np.arange(len(query)))
    chosen = order[starts[:, None] + np.arange(columns)]
    return torch.from_numpy(scores[chosen]).float().clamp(-1, 1), torch.from_numpy(indices[chosen])


def by_words(
    dataset: Any, places: Places, questions: Sequence[str], depth: int, sql: str | None = None
) -> list[list[int]]:
    """Indices of at most `depth` passages a question that share words with it, best first by BM25."""
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
        indices = places.indices(rows["_rowaddr"].to_numpy())
        found.append(indices[np.lexsort((indices, -rows["_score"].to_numpy()))].tolist())
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
