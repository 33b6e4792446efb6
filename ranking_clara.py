"""Finding passages: exact search by cosine, filters by metadata, words, and ranks fused.

Used by the plain memory and by the store. Letters of the shapes: B questions, N passages, K chosen, n rows of
a block, T all vectors of all passages, H hidden width, D width of a search vector.
"""

import importlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

FUSION, DEPTH, HALF = 60, 100, 0.5
WORD = r"(?u)\w+"
COMPARISONS = (">", ">=", "<", "<=", "!=")
BLOCK_ROWS = 2048


def mean_vectors(values: Tensor, offsets: Tensor) -> Tensor:
    """The mean of each passage's vectors.

    Args:
        values: (T, H).
        offsets: (N + 1,) int64, ascending from 0 to T.

    Returns:
        (N, H) float32.
    """
    counts = offsets.diff()
    rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
    sums = torch.zeros(len(counts), values.shape[1]).index_add_(0, rows, values.float())
    return sums / counts.unsqueeze(1)


def check_where(where: Any) -> None:
    """Checks a filter that is a mapping, for the plain memory and the store.

    `{"language": "en"}` equality, `{"language": ["en", "de"]}` one of, `{"year": {">=": 1890}}` comparison;
    `author.name` reaches into nested metadata; `id` and `parent` are columns. What is missing never passes.

    Raises:
        ValueError: If it is no such mapping; names the field.
    """
    if not isinstance(where, Mapping) or not where:
        raise ValueError(f"`where` must map names of fields to conditions, got {where!r}.")
    for name, condition in where.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"`where` must have names of fields as keys, got {name!r}.")
        if isinstance(condition, Mapping):
            unknown = [sign for sign in condition if sign not in COMPARISONS]
            if unknown or not condition:
                raise ValueError(
                    f"`where[{name!r}]` must compare with {', '.join(COMPARISONS)}, got {condition!r}: write "
                    "equality as a plain value and a choice as a list."
                )
        for value in condition_values(condition) or [None]:
            if _kind(value) is None or value != value:
                raise ValueError(
                    f"`where[{name!r}]` must hold strings, numbers, True or False, got {condition!r}."
                )


def condition_values(condition: Any) -> list:
    """The values that a condition of a filter compares with."""
    if isinstance(condition, Mapping):
        return list(condition.values())
    return list(condition) if isinstance(condition, list | tuple | set | frozenset) else [condition]


def _kind(value: Any) -> type | None:
    if isinstance(value, bool | str):
        return type(value)
    return float if isinstance(value, int | float) else None


def passes(where: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether a passage with these fields (its metadata, `id`, `parent`) passes a checked filter."""
    return all(_holds(condition, _field(fields, name)) for name, condition in where.items())


def _field(fields: Any, name: str) -> Any:
    for key in [name] if name in fields else name.split("."):
        fields = fields.get(key) if isinstance(fields, Mapping) else None
    return fields


def _holds(condition: Any, value: Any) -> bool:
    wanted = [bound for bound in condition_values(condition) if _kind(bound) == _kind(value)]
    if not isinstance(condition, Mapping):
        return value in wanted
    tests = {
        ">": lambda bound: value > bound,
        ">=": lambda bound: value >= bound,
        "<": lambda bound: value < bound,
        "<=": lambda bound: value <= bound,
        "!=": lambda bound: value != bound,
    }
    return len(wanted) == len(condition) and all(tests[sign](bound) for sign, bound in condition.items())


def check_hybrid(hybrid: float | bool | None) -> float:
    """The weight of words in a hybrid search: 0 for None and False, a half for True.

    Raises:
        ValueError: If it is no number from 0 to 1.
    """
    if hybrid is None or isinstance(hybrid, bool):
        return HALF if hybrid else 0.0
    if not isinstance(hybrid, int | float) or not 0 <= hybrid <= 1:
        raise ValueError(f"`hybrid` is the weight of words, from 0 to 1, or True for a half; got {hybrid!r}.")
    return float(hybrid)


def fuse_ranks(rankings: Iterable[tuple[float, Sequence[int]]]) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack et al. 2009), which needs no common scale of scores.

    Args:
        rankings: Weight and passages, best first, of each ranking.

    Returns:
        Passage -> sum of weight / (60 + rank), best first; of equal ones the one that came first.
    """
    fused: dict[int, float] = {}
    for weight, ranked in rankings:
        for rank, passage in enumerate(ranked, 1):
            fused[passage] = fused.get(passage, 0.0) + weight / (FUSION + rank)
    return dict(sorted(fused.items(), key=lambda item: -item[1]))


def check_search(vectors: Tensor, k: int, size: int, width: int) -> Tensor:
    """Checks a search and returns the questions' unit vectors, float32 on the CPU.

    Args:
        vectors: (B, D).
        k: K.
        size: N.
        width: D of the memory.

    Raises:
        ValueError: If K is not between 1 and N, or the vectors are not (B, D).
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= size:
        raise ValueError(
            f"`retrieval_top_k` must be between 1 and the {size} passages of the memory, got {k}."
        )
    if vectors.dim() != 2 or vectors.shape[1] != width:
        raise ValueError(
            f"`vectors` must be (B, {width}), one search vector a question, got {tuple(vectors.shape)}: "
            "question and "
            "memory must come from one model with one `retrieval_pooling`."
        )
    return torch.nn.functional.normalize(vectors.detach().float().cpu(), dim=-1)


def nearest(
    query: Tensor, blocks: Iterable[tuple[Tensor, Tensor, Tensor | None]], k: int
) -> tuple[Tensor, Tensor]:
    """Exact search by cosine, block by block, in float32; of equal scores the lower index first.

    Args:
        query: (B, D) unit vectors.
        blocks: Indices (n,), float32 vectors (n, D) and their lengths (n,), or None for unit vectors.
        k: K.

    Returns:
        (B, K) float32 scores and int64 indices, best first; fewer columns if there are fewer vectors.
    """
    scores, indices = torch.empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.long)
    for rows, vectors, lengths in blocks:
        found = query @ vectors.T
        found = found if lengths is None else found / lengths
        best, places = found.topk(min(k, len(rows)), dim=1)
        indices = torch.cat([indices, rows[places]], 1)
        scores = torch.cat([scores, best], 1)
        order = indices.argsort(dim=1)
        order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :k]
        scores, indices = scores.gather(1, order), indices.gather(1, order)
    return scores, indices


def fused(query: Tensor, near: Tensor, words: Sequence[Sequence[int]], weight: float, k: int) -> Tensor:
    """Indices (B, K) by the fused ranks of memories `near` (B, depth) and of words (B lists)."""
    columns = min(k, near.shape[1])
    rows = [
        list(fuse_ranks(((1 - weight, by_memory), (weight, by_words))))[:columns]
        for by_memory, by_words in zip(near.tolist(), words, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.long).view(len(query), columns)


def cosines(query: Tensor, vectors: Tensor) -> Tensor:
    """Cosines (B, K) of unit vectors (B, D) with vectors (B, K, D)."""
    return torch.einsum("bd,bkd->bk", query, torch.nn.functional.normalize(vectors.float(), dim=-1))


class WordIndex:
    """BM25 as in Lucene (k1 = 1.5, b = 0.75) through bm25s; every word counts, also those of one letter.

    Args:
        texts: N texts; they are read once and not kept.

    Raises:
        ValueError: If no text has a word.
        ModuleNotFoundError: If bm25s is not installed.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        try:
            self._library = importlib.import_module("bm25s")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"Words need `pip install bm25s` ({error}).") from error
        tokens = self._tokens(texts, True)
        if not tokens.vocab:
            raise ValueError("The texts hold no word: BM25 has nothing to count.")
        self._count, self._index = len(tokens.ids), self._library.BM25(method="lucene")
        self._index.index(tokens, show_progress=False)

    def _tokens(self, texts: Iterable[str], ids: bool) -> Any:
        plain = [unicodedata.normalize("NFKC", text) for text in texts]
        return self._library.tokenize(
            plain, stopwords=None, token_pattern=WORD, return_ids=ids, show_progress=False
        )

    def scores(self, questions: Sequence[str]) -> Iterator[np.ndarray]:
        """(N,) float32 scores of one question after the other; 0 where no word is shared."""
        for words in self._tokens(questions, False):
            known = [word for word in words if word in self._index.vocab_dict]
            yield self._index.get_scores(known) if known else np.zeros(self._count, np.float32)


def row_blocks(
    vectors: Tensor, lengths: Tensor, rows: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What `nearest` reads of vectors (N, D) of lengths (N,): all of them, or those of the rows (n,)."""
    for start in range(0, len(vectors) if rows is None else len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        if rows is None:
            yield torch.arange(start, start + len(lengths[part])), vectors[part], lengths[part]
        else:
            yield rows[part], vectors[rows[part]], lengths[rows[part]]
