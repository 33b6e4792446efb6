"""Finds candidate documents for questions: BM25, dense vectors, CLaRa, or several of them in turns."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np


class Retriever(Protocol):
    """Ranks the documents of a corpus."""

    def search(self, questions: Sequence[str], k: int) -> list[list[str]]:
        """Returns the texts of the `k` best documents for each question, best first (or all there are)."""
        ...


class BM25Retriever:
    """Ranks by BM25 (the package bm25s), in this process's memory.

    Args:
        documents: the texts of the corpus.

    Raises:
        ValueError: if there are no documents.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        import bm25s

        if not documents:
            raise ValueError("`documents` is empty: a retriever needs a corpus.")
        self.documents, self._bm25s = list(documents), bm25s
        self._index = bm25s.BM25()
        self._index.index(self._tokens(self.documents), show_progress=False)

    def search(self, questions: Sequence[str], k: int) -> list[list[str]]:
        """Ranks; see `Retriever.search`. Documents without a common word come last, in no order of merit."""
        k = min(k, len(self.documents))
        found = self._index.retrieve(self._tokens(questions), k=k, show_progress=False)
        return [[self.documents[i] for i in row] for row in found.documents]

    def _tokens(self, texts: Sequence[str]) -> Any:
        return self._bm25s.tokenize(list(texts), stopwords="en", show_progress=False)


class DenseRetriever:
    """Ranks by the cosine of vectors.

    Args:
        documents: the texts of the corpus.
        encode: gives the vectors of texts, (N, H); for example `SentenceTransformer(...).encode`.

    Raises:
        ValueError: if there are no documents.
    """

    def __init__(self, documents: Sequence[str], encode: Callable[[list[str]], Any]) -> None:
        if not documents:
            raise ValueError("`documents` is empty: a retriever needs a corpus.")
        self.documents, self.encode = list(documents), encode
        self._vectors = _normalized(encode(self.documents))

    def search(self, questions: Sequence[str], k: int) -> list[list[str]]:
        """Ranks; see `Retriever.search`."""
        scores = _normalized(self.encode(list(questions))) @ self._vectors.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [[self.documents[i] for i in row] for row in order]


class ClaraRetriever:
    """Ranks by the memories of a CLaRa model, with the texts of the corpus' memory."""

    def __init__(self, model: Any, memory: Any) -> None:
        self.model, self.memory = model, memory

    def search(self, questions: Sequence[str], k: int) -> list[list[str]]:
        """Ranks; see `Retriever.search`."""
        hits = self.model.retrieve(list(questions), self.memory, retrieval_top_k=min(k, len(self.memory)))
        return [[self.memory.texts[i] for i in row] for row in hits.indices]


class InTurns:
    """Takes the best document of each retriever, then the second best of each, and so on, each text once."""

    def __init__(self, *retrievers: Retriever) -> None:
        self.retrievers = retrievers

    def search(self, questions: Sequence[str], k: int) -> list[list[str]]:
        """Ranks; see `Retriever.search`."""
        rankings = zip(*(retriever.search(questions, k) for retriever in self.retrievers), strict=True)
        return [list(dict.fromkeys(chain(*zip(*ranking, strict=True))))[:k] for ranking in rankings]


def _normalized(vectors: Any) -> np.ndarray:
    """Returns rows of length 1, in float32."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
