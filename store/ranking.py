"""Filters of a search, words, and both scores combined, for the plain memory and the store.

Letters of the shapes: B questions, N passages, K chosen, D width of a search vector.
"""

import importlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..retrieval_clara import nearest, row_blocks

WORD = r"(?u)\w+"
DEPTH, HALF = 200, 0.5  # how many of the nearest, and by words, are looked at; the weight of words
IDS = ("id", "document_id", "parent")
Scored = tuple[Sequence[int], Sequence[float]]  # passages and their scores
COMPARISONS = (">", ">=", "<", "<=", "!=")


def check_where(where: Any) -> None:
    """Checks a filter that is a mapping.

    `{"language": "en"}` equality, `{"language": ["en", "de"]}` one of, `{"year": {">=": 1890}}` comparison;
    `author.name` reaches into nested metadata; `id` (or `document_id`) and `parent` are columns of texts.
    What is missing never passes.

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


def read_ids(where: Mapping[str, Any]) -> dict[str, Any]:
    """A checked filter in which ids are texts, and `document_id` is another name of the column `id`."""
    read = {}
    for name, condition in where.items():
        if name in IDS:
            if isinstance(condition, Mapping):
                condition = {sign: str(value) for sign, value in condition.items()}
            else:
                condition = [str(value) for value in condition_values(condition)]
        read["id" if name == "document_id" else name] = condition
    return read


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


def combined(by_memory: Scored, by_words: Scored, weight: float) -> dict[int, float]:
    """Cosines and BM25 scores added, each on a scale from 0 to 1 (convex combination, arXiv 2210.11934).

    Cosines from the lowest to the highest that are given, words from 0 to the highest; a passage that is not
    among the best of one of them has 0 there.

    Args:
        by_memory: Passages and their cosines, best first.
        by_words: Passages that share words with the question, and their scores.
        weight: Of words; 1 - `weight` of cosines.

    Returns:
        Passage -> score, best first; of equal ones the one that came first.
    """
    (near, cosines), (shared, scores) = by_memory, by_words
    low, high, most = min(cosines, default=0.0), max(cosines, default=0.0), max(scores, default=0.0)
    total = {
        passage: (1 - weight) * ((cosine - low) / (high - low) if high > low else 1.0)
        for passage, cosine in zip(near, cosines, strict=True)
    }
    for passage, score in zip(shared, scores, strict=True):
        total[passage] = total.get(passage, 0.0) + weight * score / most
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def hybrid_indices(near: tuple[Tensor, Tensor], words: Sequence[Scored], weight: float, k: int) -> Tensor:
    """Indices (B, K) by both: of `near` cosines and indices (B, depth), of words B lists."""
    columns = min(k, near[1].shape[1])
    rows = [
        list(combined((indices, scores), by_words, weight))[:columns]
        for scores, indices, by_words in zip(near[0].tolist(), near[1].tolist(), words, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.long).view(len(near[1]), columns)


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


def cosines(query: Tensor, vectors: Tensor) -> Tensor:
    """Cosines (B, K) of unit vectors (B, D) with vectors (B, K, D)."""
    return torch.einsum("bd,bkd->bk", query, torch.nn.functional.normalize(vectors.float(), dim=-1))


def search_plain(
    memory: Any, query: Tensor, k: int, questions: Sequence[str] | None, where: Any, hybrid: Any
) -> tuple[Tensor, Tensor]:
    """`CorpusMemory.search` with a filter or words; `query` (B, D) are unit vectors."""
    rows, weight = _passing(memory, where), check_hybrid(hybrid)
    blocks = row_blocks(memory.vectors, memory.lengths, rows)
    near = nearest(query, blocks, max(k, DEPTH) if weight else k)
    if not weight:
        return near
    if questions is None or len(questions) != len(query):
        raise ValueError(f"`hybrid` needs `questions`, a text for each of the {len(query)} vectors.")
    words = _by_words(memory, questions, max(k, DEPTH), rows)
    indices = hybrid_indices(near, words, weight, k)
    return cosines(query, memory.vectors[indices]), indices


def _passing(memory: Any, where: Any) -> Tensor | None:
    if where is None:
        return None
    if isinstance(where, str):
        raise ValueError(f"`where` as SQL text needs a `CorpusStore`, got {where!r}: give a mapping here.")
    check_where(where)
    where = read_ids(where)
    columns = zip(memory.metadata, memory.document_ids, memory.parents, strict=True)
    kept = [passes(where, {**fields, "id": name, "parent": parent}) for fields, name, parent in columns]
    return torch.tensor(kept).nonzero()[:, 0]


def _by_words(memory: Any, questions: Sequence[str], depth: int, rows: Tensor | None) -> list[Scored]:
    if memory.words is None:
        memory.words = WordIndex(memory.texts)
    found = []
    for scores in memory.words.scores(questions):
        sharing = np.flatnonzero(scores > 0)
        sharing = sharing if rows is None else np.intersect1d(sharing, rows.numpy())
        best = sharing[np.argsort(-scores[sharing], kind="stable")[:depth]]
        found.append((best.tolist(), scores[best].tolist()))
    return found
